"""BEIR: a folder with `queries.jsonl` and `qrels/*.tsv`, which has gold passages and no answers."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dro_trl.data.formats.base import SourceFormat, SourceQuestion
from dro_trl.data.formats.converting import text_id
from dro_trl.data.schema import check_text
from dro_trl.files.text_rows import parse_number, read_cells, read_json, split_words


def read(path: Path) -> Iterator[tuple[int, object]]:
    """Read the queries that one file of judgements is about, with the documents judged relevant.

    Args:
        path: The file of judgements (`.../qrels/test.tsv`), or the folder where it is the only one.

    Yields:
        As `SourceFormat.read`; the number is the line of `queries.jsonl`. Queries that are not judged belong to
        another split and are not yielded. A judged query that is not there is a fault of row 0.

    Raises:
        FileNotFoundError: A file is not there.
        ValueError: The folder holds several files of judgements, or a line of judgements is malformed.
    """
    qrels = _qrels_file(path)
    relevant = _read_qrels(qrels)
    unseen = dict.fromkeys(relevant)
    for number, query in read_json(_queries_file(qrels.parent.parent)):
        try:
            if not isinstance(query, dict) or "_id" not in query:
                raise (
                    query
                    if isinstance(query, ValueError)
                    else ValueError(f"found {query!r:.60}; expected an object with _id and text")
                )
            query_id = text_id(query["_id"], "_id")
        except ValueError as error:
            yield number, error
            continue
        if query_id in relevant:
            unseen.pop(query_id, None)
            yield number, {**query, "_id": query_id, "relevant": relevant[query_id]}
    for query_id in unseen:
        yield 0, ValueError(f"query {query_id!r} is judged in {qrels.name} and is not in queries.jsonl")


def convert(row: dict[str, Any]) -> SourceQuestion:
    """Convert a query with `_id`, `text` and the ids in `relevant`.

    As BEIR's evaluation does, retrieval is to leave the document with the query's id out: where queries are documents
    (ArguAna, Quora) each would find itself. One that is judged relevant is another thing of the same name.

    Raises:
        ValueError: A field is missing or of another form, or no document is judged relevant.
    """
    if not row["relevant"]:
        raise ValueError("found no document with a score above 0; expected at least one")
    return SourceQuestion(
        id=row["_id"],
        question=check_text(row.get("text"), "text"),
        answers=None,
        gold_ids=list(row["relevant"]),
        gold_field="qrels",
        excluded_ids=[] if row["_id"] in row["relevant"] else [row["_id"]],
    )


def _qrels_file(path: Path) -> Path:
    if not path.is_dir():
        return path
    found = sorted((path / "qrels").glob("*.tsv"))
    if not found:
        raise FileNotFoundError(
            f"{path}: no file qrels/*.tsv there; give a folder of BEIR's or one of its qrels files"
        )
    if len(found) > 1:
        named = ", ".join(str(file) for file in found)
        raise ValueError(f"{path}: there are several files of judgements; give the one of your split: {named}")
    return found[0]


def _queries_file(folder: Path) -> Path:
    plain = folder / "queries.jsonl"
    packed = folder / "queries.jsonl.gz"
    return packed if packed.is_file() and not plain.is_file() else plain


def _read_qrels(path: Path) -> dict[str, list[str]]:
    """Read the relevant documents of each judged query, from BEIR's three columns or from trec_eval's four."""
    judged: dict[str, dict[str, bool]] = {}
    for number, cells in read_cells(path, "\t", quoted=False):
        if len(cells) == 1:
            cells = split_words(cells[0])
        if number == 1 and cells[:1] == ["query-id"]:
            continue
        try:
            query_id, document_id, score = cells if len(cells) != 4 else (cells[0], *cells[2:])
            relevant = parse_number(score.strip(" ")) > 0
            if not query_id or not document_id:
                raise ValueError("an id is empty")
        except ValueError as error:
            expected = "query-id, corpus-id and a number, with tabs between"
            raise ValueError(f"{path}:{number}: found {cells!r:.80}; expected {expected}") from error
        if judged.setdefault(query_id, {}).setdefault(document_id, relevant) != relevant:
            raise ValueError(
                f"{path}:{number}: document {document_id!r} is judged for query {query_id!r} a second time, and once "
                "as relevant and once as not; keep one"
            )
    return {query: [document for document in found if found[document]] for query, found in judged.items()}


FORMAT = SourceFormat(read, convert)
