"""`dro-trl retrieve`: add candidates to questions."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dro_trl.retrieval.gold import AnswerMatch
from dro_trl.retrieval.opening import passage_source

if TYPE_CHECKING:
    from dro_trl.files.unfinished import Unfinished
    from dro_trl.retrieval.adding import Adding, Checked, Tally


Input = Annotated[Path, typer.Option("--input", help="JSONL file of rows with a question.")]
Output = Annotated[Path, typer.Option("--output", help="JSONL file to write: the rows, with candidates.")]
IndexDir = Annotated[Path | None, typer.Option("--index_dir", help="Folder of an index.")]
Prebuilt = Annotated[
    str | None, typer.Option("--prebuilt", help="Name of a prebuilt index, such as wikipedia-dpr-100w.")
]
Depth = Annotated[int, typer.Option("--num_candidates", "-k", min=1, help="Candidates for each question.")]
K1 = Annotated[float, typer.Option("--k1", help="BM25's term-frequency saturation.")]
B = Annotated[float, typer.Option("--b", help="BM25's length normalisation.")]
AddGold = Annotated[
    bool,
    typer.Option(
        "--add_gold", help="For a generator's training: put gold passages that were missed in place of the last."
    ),
]
ExcludeOwn = Annotated[
    bool,
    typer.Option(
        "--exclude_own", help="Where a question is a document, leave the passage with its id out of its hits."
    ),
]
AnswerAsGold = Annotated[
    bool,
    typer.Option(
        "--answer_as_gold", help="Where a row names no gold passages, take the candidates that hold an answer."
    ),
]
HowAnswersMatch = Annotated[
    AnswerMatch,
    typer.Option(
        "--answer_match",
        help="With --answer_as_gold, when one does: dpr as DPR and Pyserini judge its text; extended in its title "
        "or text, however quotes, dashes, numbers and scripts without spaces are written.",
    ),
]
RunFile = Annotated[Path | None, typer.Option("--output_run", help="TREC run file to write: what was found.")]
FromRun = Annotated[
    Path | None, typer.Option("--from_run", help="TREC run file to take the rankings from, instead of BM25.")
]
Corpus = Annotated[
    Path | None, typer.Option("--corpus", help="With --from_run: where the passages are, if in no index.")
]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="Threads; all cores by default.")]


def main(
    context: typer.Context,
    input: Input,
    output: Output,
    index_dir: IndexDir = None,
    prebuilt: Prebuilt = None,
    k: Depth = 20,
    k1: K1 = 0.9,
    b: B = 0.4,
    add_gold: AddGold = False,
    exclude_own: ExcludeOwn = False,
    answer_as_gold: AnswerAsGold = False,
    answer_match: HowAnswersMatch = AnswerMatch.dpr,
    run: RunFile = None,
    from_run: FromRun = None,
    corpus: Corpus = None,
    threads: Threads = None,
) -> None:
    """Add candidates to questions, by BM25 or from a run file, and measure recall where gold_ids are given."""
    from dro_trl.cli.outputs import beside, claim
    from dro_trl.files.unfinished import unfinished
    from dro_trl.files.writing import write_json
    from dro_trl.retrieval.adding import Adding, add_candidates, by_bm25, by_run, check_rows, figures
    from dro_trl.retrieval.questions import QuestionRows
    from dro_trl.retrieval.stored_run import StoredRun

    results = beside(output, output.name + ".results.json")
    inputs = {"--input": input, "--from_run": from_run, "--index_dir": index_dir, "--corpus": corpus}
    claim(context, {"--output": output, "--output_run": run, "the figures of --output": results}, inputs)
    check_sources(index_dir, prebuilt, corpus, from_run)
    if answer_match is not AnswerMatch.dpr and not answer_as_gold:
        raise ValueError(f"--answer_match {answer_match} says how --answer_as_gold judges candidates; add that option")
    adding = Adding(k, add_gold, exclude_own, answer_match if answer_as_gold else None)
    with QuestionRows(input) as rows:
        checked = check_rows(rows, adding)
        if run is not None or from_run is not None:
            rows.check_ids()
        ranked = None if from_run is None else StoredRun(from_run)
        with passage_source(index_dir, prebuilt, corpus, k1, b, threads, ranked, rows if add_gold else None) as source:
            if add_gold:
                check_rows(rows, adding, source)
            made_from = {
                "the input": rows.digest(),
                **asdict(adding),
                **source_record(source, from_run, corpus),
                "run": None if run is None else str(run.resolve()),
            }
            outputs = {"rows": output, **({} if run is None else {"run": run})}
            with unfinished(outputs, made_from) as files:
                say_where(files, checked.num_rows, output)
                find = by_bm25(source) if ranked is None else by_run(ranked, source)
                tally = add_candidates(rows, checked, adding, find, source, files)
                system = "bm25" if from_run is None else from_run.name
                table = {system: {**figures(tally), "n": tally.judged}}
                if results is not None and tally.judged:
                    write_json(results, {"systems": table, "comparisons": []})
    report(tally, checked, adding, output, run)
    if tally.judged:
        print_recall(table, checked.num_rows, results)


def say_where(files: "Unfinished", num_rows: int, output: Path) -> None:
    """Print where a killed retrieval goes on, or why it does not."""
    if files.done:
        typer.echo(f"going on after {files.done:,} of {num_rows:,} questions")
    elif files.differing:
        typer.echo(f"beginning anew: a killed retrieval to {output} differs, {'; '.join(files.differing)}")


def check_sources(index_dir: Path | None, prebuilt: str | None, corpus: Path | None, from_run: Path | None) -> None:
    """Refuse several places of passages, or none, and a corpus that would have to be searched."""
    if sum(source is not None for source in (index_dir, prebuilt, corpus)) != 1:
        given = f"--index_dir (got {index_dir}), --prebuilt (got {prebuilt}) and --corpus (got {corpus})"
        raise ValueError(f"give one of {given}")
    if corpus is not None and from_run is None:
        raise ValueError(f"--corpus {corpus} is for the passages of --from_run; build an index to retrieve from it")


def report(tally: "Tally", checked: "Checked", adding: "Adding", output: Path, run: Path | None) -> None:
    """Print what was added and written."""
    from dro_trl.files.wording import counted

    number = checked.num_rows
    typer.echo(f"wrote {output}: {counted(number, 'question')}, {counted(tally.candidates, 'candidate')}")
    if run is not None:
        typer.echo(
            f"wrote {run}: {tally.found:,} lines" + (", without the added gold passages" if tally.added else "")
        )
    if checked.most_excluded:
        typer.echo(
            f"{tally.left_out:,} of {number:,} questions found a passage that was left out: excluded_ids, or their own"
        )
    if adding.add_gold:
        typer.echo(f"added {tally.added:,} gold passages that were not found; use these candidates for training alone")
    if adding.answer_match is not None:
        typer.echo(f"{tally.marked:,} questions without gold passages have candidates that hold an answer: gold now")
    if tally.empty:
        typer.echo(f"nothing was found for {tally.empty} of {number} questions: their candidates are empty lists")


def source_record(source: Any, from_run: Path | None, corpus: Path | None) -> dict[str, Any]:
    """Return what decides the passages that are found, as plain JSON."""
    import dro_trl
    from dro_trl.recipes.runs.digests import Digests
    from dro_trl.records import file_digest

    return {
        "the index": getattr(source, "fingerprint", None),
        "from_run": None if from_run is None else file_digest(from_run),
        "the corpus": None if corpus is None else Digests(Path(os.devnull)).of(corpus),
        "dro-trl's version": dro_trl.__version__,
    }


def print_recall(systems: dict[str, dict[str, float]], num_rows: int, results: Path | None) -> None:
    """Print figures by system as a table, of how many questions they are, and where they are written."""
    from rich.console import Console
    from rich.table import Table

    from dro_trl.files.wording import counted

    [judged] = {int(found["n"]) for found in systems.values()}
    typer.echo(f"Gold passages are known of {judged:,} of {counted(num_rows, 'question')}.")
    for system, found in systems.items():
        table = Table("system", *found)
        table.add_row(system, *(str(value) if name == "n" else f"{value:.3f}" for name, value in found.items()))
        Console().print(table)
    if results is not None:
        typer.echo(f"wrote {results}")
