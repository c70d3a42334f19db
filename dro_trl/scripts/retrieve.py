"""`dro-trl retrieve`: add BM25 candidates to questions."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from dro_trl.types import Passage

CUTOFFS = (1, 5, 20)


def main(
    input: Annotated[Path, typer.Option("--input", help="JSONL file of rows with a question.")],
    output: Annotated[Path, typer.Option("--output", help="JSONL file to write: the rows, with candidates.")],
    index_dir: Annotated[Path | None, typer.Option("--index_dir", help="Folder of an index.")] = None,
    prebuilt: Annotated[
        str | None, typer.Option("--prebuilt", help="Name of a prebuilt index, such as wikipedia-dpr-100w.")
    ] = None,
    k: Annotated[int, typer.Option("-k", "--k", min=1, help="Candidates for each question.")] = 20,
    k1: Annotated[float, typer.Option("--k1", help="BM25's term-frequency saturation.")] = 0.9,
    b: Annotated[float, typer.Option("--b", help="BM25's length normalisation.")] = 0.4,
    add_gold: Annotated[
        bool,
        typer.Option("--add_gold", help="For training: put gold passages that BM25 missed in place of its last ones."),
    ] = False,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="Threads; all cores by default.")] = None,
) -> None:
    """Add the BM25 candidates to questions, and measure their recall where gold_ids are given."""
    from dro_trl.atomic_write import write_jsonl
    from dro_trl.retrieval.pyserini import PyseriniRetriever

    if (index_dir is None) == (prebuilt is None):
        raise ValueError(f"give one of --index_dir (got {index_dir}) and --prebuilt (got {prebuilt})")
    rows = read_rows(input)
    retriever = (
        PyseriniRetriever(index_dir, k1=k1, b=b, threads=threads)
        if index_dir is not None
        else PyseriniRetriever.from_prebuilt(str(prebuilt), k1=k1, b=b, threads=threads)
    )
    with retriever:
        found = retriever.retrieve([row["question"] for row in rows], k)
        missed = sorted({id for row, hits in zip(rows, found, strict=True) for id in missed_gold(row, hits)})
        gold = {passage["id"]: passage for passage in retriever.passages(missed)} if add_gold else {}
    added = 0
    for row, candidates in zip(rows, found, strict=True):
        new = [gold[id] for id in missed_gold(row, candidates)] if add_gold else []
        added += len(new)
        row["candidates"] = with_gold(candidates, new, row.get("gold_ids") or [], k)
    write_jsonl(output, rows)
    typer.echo(f"wrote {output}: {len(rows):,} questions, {sum(len(row['candidates']) for row in rows):,} candidates")
    if add_gold:
        typer.echo(f"added {added:,} gold passages that were not found; use these candidates for training alone")
    if empty := sum(not candidates for candidates in found):
        typer.echo(f"nothing was found for {empty} of {len(rows)} questions: their candidates are empty lists")
    if any(row.get("gold_ids") for row in rows):
        report_recall(rows, found, k, output)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read and check the rows to retrieve for.

    Args:
        path: JSONL file.

    Returns:
        The rows, with all their columns.

    Raises:
        ValueError: A line is no object, has no question, or has candidates already; or there is no line.
    """
    from dro_trl.retrieval.corpus import read_jsonl

    rows = []
    for where, row in read_jsonl(path):
        question = row.get("question")
        if not isinstance(question, str) or not question.strip():
            raise ValueError(f"{where}: field 'question': found {question!r}, need a non-empty string")
        if "candidates" in row:
            raise ValueError(f"{where}: field 'candidates' is there already; remove it to retrieve anew")
        gold = row.get("gold_ids")
        if gold is not None and not (isinstance(gold, list) and all(isinstance(id, str) for id in gold)):
            raise ValueError(f"{where}: field 'gold_ids': found {gold!r}, need a list of strings, or null")
        rows.append(row)
    if not rows:
        raise ValueError(f"{path}: no rows; at least one question is needed")
    return rows


def recall(gold_ids: list[str], ranked_ids: list[str], cutoff: int) -> float:
    """Return the share of the gold passages among the first `cutoff` ranked ones.

    >>> recall(["a", "b"], ["c", "a", "b"], 2)
    0.5
    """
    gold = set(gold_ids)
    return len(gold.intersection(ranked_ids[:cutoff])) / len(gold)


def missed_gold(row: dict[str, Any], hits: list["Passage"]) -> list[str]:
    """Return the ids of a row's gold passages that are not among the hits, each once."""
    found = {passage["id"] for passage in hits}
    return [id for id in dict.fromkeys(row.get("gold_ids") or []) if id not in found]


def with_gold(hits: list["Passage"], gold: list["Passage"], gold_ids: list[str], k: int) -> list["Passage"]:
    """Return at most `k` passages, the gold ones among them: the last hits that are not gold make room.

    Args:
        hits: What the retriever found, best first.
        gold: Gold passages that it did not find; they follow the hits, with the score of the last.
        gold_ids: Those of all gold passages.
        k: Passages wanted. Where more are gold, all of those.
    """
    spare = [number for number, passage in enumerate(hits) if passage["id"] not in gold_ids]
    excess = max(0, len(hits) + len(gold) - k)
    dropped = set(spare[::-1][:excess])
    kept = [passage for number, passage in enumerate(hits) if number not in dropped]
    score = hits[-1]["score"] if hits else 0.0
    return [*kept, *(passage | {"score": score} for passage in gold)]


def report_recall(rows: list[dict[str, Any]], found: list[list["Passage"]], k: int, output: Path) -> None:
    """Print the recall of gold passages in what was found, and write it as JSON to `<output>.results.json`."""
    from rich.console import Console
    from rich.table import Table

    from dro_trl.atomic_write import write_json

    judged = [
        (row["gold_ids"], [passage["id"] for passage in hits])
        for row, hits in zip(rows, found, strict=True)
        if row.get("gold_ids")
    ]
    figures: dict[str, float] = {
        f"recall@{cutoff}": sum(recall(gold, ranked, cutoff) for gold, ranked in judged) / len(judged)
        for cutoff in CUTOFFS
        if cutoff <= k
    }
    title = f"BM25, {len(judged)} of {len(rows)} questions have gold passages"
    table = Table("system", *figures, "n", title=title)
    table.add_row("bm25", *(f"{value:.3f}" for value in figures.values()), str(len(judged)))
    Console().print(table)
    results = output.with_name(output.name + ".results.json")
    content = {"systems": {"bm25": {**figures, "n": len(judged)}}, "comparisons": []}
    write_json(results, content)
    typer.echo(f"wrote {results}")
