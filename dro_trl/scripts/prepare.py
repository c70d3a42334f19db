"""`dro-trl prepare`: convert a public dataset to the rows that the other commands read."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from dro_trl.data.hotpotqa import PreparedQuestions


class PublicDataset(StrEnum):
    """The datasets that can be converted."""

    hotpotqa = "hotpotqa"
    wikimultihopqa = "2wikimultihopqa"


class OnBadRow(StrEnum):
    """What to do about a row that cannot be converted."""

    stop = "raise"
    skip = "skip"


def main(
    dataset: Annotated[PublicDataset, typer.Option("--dataset", help="What the input is.")],
    input: Annotated[Path, typer.Option("--input", help="The official raw file, a JSON list or JSON Lines.")],
    corpus: Annotated[Path, typer.Option("--corpus", help="JSONL file of passages, to look up gold titles in.")],
    output: Annotated[Path, typer.Option("--output", help="JSONL file to write: id, question, answers, gold_ids.")],
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Read only the first so many rows.")] = None,
    on_bad_row: Annotated[
        OnBadRow, typer.Option("--on_bad_row", "--on-bad-row", help="Stop at rows that do not convert, or skip them.")
    ] = OnBadRow.stop,
) -> None:
    """Convert raw HotpotQA or 2WikiMultihopQA questions, with their gold passages looked up in a corpus."""
    from dro_trl.atomic_write import write_jsonl
    from dro_trl.data.hotpotqa import prepare_questions
    from dro_trl.data.schema import describe_faults

    prepared = prepare_questions(input, corpus, limit=limit)
    if prepared.refused:
        description = describe_faults(prepared.refused, str(input), prepared.num_rows)
        if on_bad_row is OnBadRow.stop:
            raise ValueError(f"{description}\nnothing was written; --on_bad_row skip leaves such rows out")
        if not prepared.rows:
            raise ValueError(f"{description}\nnothing was written: no row is left")
        typer.echo(f"skipped: {description}", err=True)
    write_jsonl(output, prepared.rows)
    _report(prepared, dataset, output)


def _report(prepared: "PreparedQuestions", dataset: PublicDataset, output: Path) -> None:
    """Print the counts, and write them with every refused row as JSON beside the output."""
    from dataclasses import asdict

    from rich.console import Console
    from rich.table import Table

    from dro_trl.atomic_write import write_jsonl

    counts = {
        "read": prepared.num_rows,
        "kept": len(prepared.rows),
        "refused": len(prepared.refused),
        "gold_titles_absent": prepared.absent_titles,
        "gold_passages_same_text": prepared.gold_by_text,
        "gold_passages_same_title_only": prepared.gold_by_title,
    }
    table = Table("what", "count", title=dataset.value)
    for name, count in counts.items():
        table.add_row(name.replace("_", " "), f"{count:,}")
    Console().print(table)
    report = output.with_suffix(".report.json")
    refused = [asdict(fault) for fault in prepared.refused]
    write_jsonl(report, [{"dataset": dataset.value, **counts, "refused_rows": refused}])
    typer.echo(f"wrote {output} (figures in {report})")
