"""`dro-trl prepare`: convert a public dataset to the rows that the other commands read."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dro_trl.cli import options
from dro_trl.data.formats.table import PublicDataset, raw_rows, source_format

if TYPE_CHECKING:
    from dro_trl.data.formats.converting import PreparedQuestions


def main(
    context: typer.Context,
    dataset: Annotated[PublicDataset, typer.Option("--format", help="What the input is: a dataset, or a format.")],
    input: Annotated[
        str, typer.Option("--input", help="The official file (BEIR: a file of qrels or its folder), or a hub name.")
    ],
    output: Annotated[
        Path, typer.Option("--output", help="JSONL file to write: id, question, answers, gold_ids, candidates.")
    ],
    corpus: Annotated[
        Path | None,
        typer.Option(
            "--corpus", help="File or folder of passages to look up gold titles in, of any format `index` reads."
        ),
    ] = None,
    no_gold: Annotated[bool, typer.Option("--no_gold", help="Leave gold passages out.")] = False,
    limit: Annotated[
        int | None, typer.Option("--max_samples", min=1, help="Convert the first so many rows only.")
    ] = None,
    on_bad_row: options.BadRows = options.OnBadRow.stop,
    config: Annotated[str | None, typer.Option("--dataset_config", help="Configuration of a hub dataset.")] = None,
    split: Annotated[str, typer.Option("--split", help="Split of a hub dataset.")] = "train",
) -> None:
    """Convert a public dataset, with its gold passages where it names any."""
    from dro_trl.cli.outputs import beside, claim
    from dro_trl.data.formats.converting import prepare_questions
    from dro_trl.data.schema import describe_faults
    from dro_trl.files.writing import atomic_path
    from dro_trl.retrieval.corpus import open_corpus

    figures = beside(output, output.with_suffix(".report.json").name)
    read = [Path(input)] if dataset is not PublicDataset.beir else beir_files(Path(input))
    inputs = {f"--input, {path.name}:": path for path in read if path.is_file()}
    claim(context, {"--output": output, "the figures of --output": figures}, {**inputs, "--corpus": corpus})
    source = source_format(dataset)
    with atomic_path(output) as temporary, temporary.open("w", encoding="utf-8") as file:
        prepared = prepare_questions(
            raw_rows(source, input, config, split),
            source.convert,
            lambda row: file.write(json.dumps(row, ensure_ascii=False) + "\n"),
            source=input,
            corpus=None if corpus is None else open_corpus(corpus),
            gold=not no_gold,
            limit=limit,
            folder=temporary.parent,
        )
        if prepared.refused:
            _tell(describe_faults(prepared.refused, input, prepared.num_rows), on_bad_row, prepared.num_kept)
        if figures is not None:
            figures.unlink(
                missing_ok=True
            )  # Those of an earlier output, if this command is killed after the next line.
    report(prepared, dataset, output, figures)


def _tell(faults: str, on_bad_row: options.OnBadRow, num_kept: int) -> None:
    """Say which rows are left out, or raise where they must not be, or none is left."""
    if on_bad_row is options.OnBadRow.stop:
        raise ValueError(f"{faults}\nnothing was written; --on_bad_row skip leaves such rows out")
    if not num_kept:
        raise ValueError(f"{faults}\nnothing was written: no row is left")
    typer.echo(f"skipped: {faults}", err=True)


def beir_files(path: Path) -> list[Path]:
    """Return the files that a folder of BEIR's, or one of its files of judgements, stands for."""
    folder = path if path.is_dir() else path.parent.parent
    return [path, folder / "queries.jsonl", folder / "corpus.jsonl", *sorted((folder / "qrels").glob("*.tsv"))]


def report(prepared: "PreparedQuestions", dataset: PublicDataset, output: Path, figures: Path | None) -> None:
    """Print the counts, and write them with every refused row as JSON, if there is a file for it."""
    from dataclasses import asdict

    from rich.console import Console
    from rich.table import Table

    from dro_trl.files.wording import counted
    from dro_trl.files.writing import write_jsonl

    counts = {
        "read": prepared.num_rows,
        "kept": prepared.num_kept,
        "refused": len(prepared.refused),
        "gold_titles_absent": prepared.absent_titles,
        "gold_ids_absent": prepared.absent_ids,
        "gold_passages_same_text": prepared.gold_by_text,
        "gold_passages_same_title_only": prepared.gold_by_title,
        "kept_without_gold": prepared.without_gold,
        "kept_without_answers": prepared.without_answers,
        "repeated_candidates_left_out": prepared.repeated_candidates,
    }
    table = Table("what", "count", title=dataset.value)
    for name, count in counts.items():
        table.add_row(name.replace("_", " "), f"{count:,}")
    Console().print(table)
    if prepared.without_answers:
        typer.echo(
            f"{counted(prepared.without_answers, 'row')} without answers: `dro-trl retrieve` takes such rows and "
            "measures recall; `train` and `evaluate` refuse them"
        )
    typer.echo(f"wrote {output}" + (f" (figures in {figures})" if figures else ""))
    if figures is not None:
        refused = [asdict(fault) for fault in prepared.refused]
        write_jsonl(figures, [{"dataset": dataset.value, **counts, "refused_rows": refused}])
