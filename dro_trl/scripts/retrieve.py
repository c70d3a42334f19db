"""`dro-trl retrieve`: add BM25 candidates to questions."""

from pathlib import Path
from typing import Annotated, Any

import typer

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
    for row, candidates in zip(rows, found, strict=True):
        row["candidates"] = candidates
    write_jsonl(output, rows)
    typer.echo(f"wrote {output}: {len(rows):,} questions, {sum(map(len, found)):,} candidates")
    if empty := sum(not candidates for candidates in found):
        typer.echo(f"nothing was found for {empty} of {len(rows)} questions: their candidates are empty lists")
    if any(row.get("gold_ids") for row in rows):
        report_recall(rows, k, output)


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


def report_recall(rows: list[dict[str, Any]], k: int, output: Path) -> None:
    """Print recall of the gold passages, and write it as JSON to `<output>.results.json`."""
    from rich.console import Console
    from rich.table import Table

    from dro_trl.atomic_write import write_json

    judged = [
        (row["gold_ids"], [passage["id"] for passage in row["candidates"]]) for row in rows if row.get("gold_ids")
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
