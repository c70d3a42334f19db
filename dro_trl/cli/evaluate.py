"""`dro-trl evaluate`: a trained pair against the retriever's own order and the pair it started from."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dro_trl.cli import options

if TYPE_CHECKING:
    from dro_trl.evaluation.comparison import EvaluationReport
    from dro_trl.evaluation.scores import Prediction


class Predictions(StrEnum):
    """Where predictions are written: in `results.json` alone, or in a table as well."""

    json = "json"
    parquet = "parquet"
    csv = "csv"


OutputDir = Annotated[
    Path | None,
    typer.Option("--output_dir", help="Where results go; <model>/evaluation (of one on a hub evaluation/<model>)."),
]
Ks = Annotated[list[int] | None, typer.Option("--cutoffs", min=1, help="Depths of recall and nDCG; K where none.")]
Metrics = Annotated[
    list[str] | None, typer.Option("--metrics", help="Further metrics: success, map, all_gold, acc, rouge_l.")
]
Systems = Annotated[
    list[str] | None,
    typer.Option("--systems", help="Further systems: no retrieval, random, oracle, …"),
]
By = Annotated[
    str | None, typer.Option("--by", help="Column of the questions, such as hops: scores of each group by itself too.")
]
NumSelections = Annotated[
    int, typer.Option("--num_selections", min=1, help="M, selections that the oracle chooses from.")
]
ShuffleCandidates = Annotated[
    int | None,
    typer.Option("--shuffle_seed", help="Seed of a random order of the candidates; as they are if not given."),
]
GeneratorUrl = Annotated[
    str | None,
    typer.Option(
        "--generator_url",
        help="OpenAI-compatible server of the trained generator, such as http://localhost:8000/v1; here if not given.",
    ),
]
GeneratorModel = Annotated[
    str | None, typer.Option("--generator_model", help="What the server calls it; its only model if not given.")
]
Limit = Annotated[
    int | None, typer.Option("--max_eval_samples", min=1, help="Evaluate on the first so many questions only.")
]
BatchSize = Annotated[int, typer.Option("--per_device_eval_batch_size", min=1, help="Questions in a batch.")]
PredictionsFormat = Annotated[
    Predictions,
    typer.Option("--predictions_format", help="Also as a table: predictions.parquet or .csv beside results.json."),
]
Resume = Annotated[
    bool, typer.Option("--resume/--no_resume", help="Go on from what an interrupted evaluation left in the folder.")
]


def main(
    context: typer.Context,
    model: options.Model,
    dataset: Annotated[str, typer.Option("--dataset_name", help="Questions with candidates: a file or a hub name.")],
    output_dir: OutputDir = None,
    split: Annotated[str, typer.Option("--dataset_test_split", help="Split of a hub dataset.")] = "test",
    limit: Limit = None,
    num_selected: options.NumSelected = None,
    window_size: options.WindowSize = None,
    window_stride: options.WindowStride = None,
    ks: Ks = None,
    metrics: Metrics = None,
    by: By = None,
    batch_size: BatchSize = 8,
    max_new_tokens: Annotated[int, typer.Option("--max_new_tokens", min=1, help="Longest answer, in tokens.")] = 32,
    start: Annotated[
        bool, typer.Option("--start/--no_start", help="Also run the pair that training started from.")
    ] = True,
    systems: Systems = None,
    num_selections: NumSelections = 16,
    shuffle_candidates: ShuffleCandidates = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    max_thinking_tokens: options.MaxThinkingTokens = None,
    generator_url: GeneratorUrl = None,
    generator_model: GeneratorModel = None,
    revision: options.Revision = None,
    trust_remote_code: options.TrustRemoteCode = False,
    seed: Annotated[int, typer.Option("--seed", help="Of the bootstrap, and of what systems draw.")] = 0,
    on_bad_row: options.BadRows = options.OnBadRow.stop,
    predictions_format: PredictionsFormat = Predictions.json,
    resume: Resume = True,
) -> None:
    """Evaluate recall, MRR, nDCG, EM and F1 with paired bootstrap intervals."""
    from dro_trl.evaluation.evaluator import DEFAULT_SYSTEMS

    folder = output_dir or default_output(model)
    of_models: dict[str, Any] = {
        "num_selected": num_selected,
        "window_size": window_size,
        "window_stride": window_stride,
    }
    of_models |= {
        "trust_remote_code": trust_remote_code,
        "revision": revision,
        "max_thinking_tokens": max_thinking_tokens,
    }
    if generator_url:
        of_models |= {"generator_url": generator_url, "generator_model": generator_model}
    elif generator_model:
        raise ValueError(f"--generator_model {generator_model} is a model of a server; give its --generator_url")
    run(
        context,
        model,
        (dataset, split, on_bad_row.value, limit),
        [*(DEFAULT_SYSTEMS if start else DEFAULT_SYSTEMS[2:]), *(systems or [])],
        folder,
        resume,
        (device, dtype),
        predictions_format.value,
        ks=ks,
        seed=seed,
        batch_size=batch_size,
        max_new_tokens=max_new_tokens,
        extra_metrics=metrics or (),
        by=by,
        num_selections=num_selections,
        shuffle_candidates=shuffle_candidates,
        **of_models,
    )


def default_output(model: Path) -> Path:
    """Return the folder of results where none is given."""
    from dro_trl.models.names import is_on_hub

    return Path("evaluation") / "--".join(model.parts) if is_on_hub(model) else model / "evaluation"


def run(
    context: typer.Context,
    model: Path,
    data: tuple[str, str, Any, int | None],
    systems: list[str],
    folder: Path,
    resume: bool,
    place: tuple[str, str],
    predictions_format: str = "json",
    **settings: Any,
) -> None:
    """Check all inputs, then evaluate and write the results.

    Args:
        context: Of the command, until whose end the folder is held.
        model: The pair.
        data: Name, split, what to do about bad rows, and how many rows.
        systems: Those to compare.
        folder: Of the results.
        resume: Whether to go on from what an interrupted evaluation left there.
        place: Device and number format, as they were given.
        predictions_format: `json` writes predictions into `results.json`, others into a table as well.
        **settings: The other arguments of `evaluate_pair`.
    """
    import time

    from dro_trl.cli.quiet import load_quietly
    from dro_trl.data.load import load_rag_dataset
    from dro_trl.data.mapped_rows import MappedRows
    from dro_trl.evaluation.evaluator import check_evaluation, evaluate_pair
    from dro_trl.evaluation.parts import choose_place, discard, launched_processes
    from dro_trl.files.folders import owned
    from dro_trl.lm.devices import describe, name_of
    from dro_trl.models.names import pair_folder
    from dro_trl.retrieval.questions import query_id
    from dro_trl.trainer.dataset import naming_sources

    started = time.monotonic()
    load_quietly()
    processes = launched_processes(place[0])
    device, dtype = choose_place(processes, *place)
    check_results(folder)
    check_evaluation(pair_folder(model, settings["revision"]), systems, settings["extra_metrics"])
    name, split, on_bad_row, limit = data
    rows = load_rag_dataset(name, split=split, on_bad_row=on_bad_row)
    rows = rows.select(range(min(limit or len(rows), len(rows))))
    context.with_resource(owned(folder, processes.is_main_process))
    if processes.is_main_process:
        print(f"Evaluating {describe(device, dtype)}")
    if not resume and processes.is_main_process:
        discard(folder / "progress")
    settings |= {"device": str(device), "dtype": name_of(dtype), "progress_dir": folder / "progress"}
    with naming_sources(questions=name):
        report, predictions = evaluate_pair(model, MappedRows(rows), systems, **settings)
    if processes.is_main_process:
        facts = {"model": str(model), "dataset": name, "seconds": round(time.monotonic() - started, 1)}
        write(folder, report, predictions, facts, settings)
        given = rows["id"] if "id" in rows.column_names else [None] * len(rows)
        ids = [query_id({"id": id}, number) for number, id in enumerate(given, start=1)]
        write_runs(folder / "runs", ids, predictions)
        write_table(folder, ids, predictions, predictions_format)


def write(
    folder: Path,
    report: "EvaluationReport",
    predictions: dict[str, Any],
    facts: dict[str, Any],
    settings: dict[str, Any],
) -> None:
    """Print the report, write it with its plot, and take away what was kept for an interruption."""
    from rich.console import Console

    from dro_trl.evaluation.parts import discard
    from dro_trl.evaluation.plots import plot_comparison
    from dro_trl.evaluation.report import print_report, write_results
    from dro_trl.evaluation.systems import SYSTEMS

    reading_answers = [name for name in predictions if SYSTEMS[name].reads_answer]
    print_report(report, Console(), reading_answers)
    seed = settings["shuffle_candidates"]
    if seed is not None:
        print(f"Selectors saw the candidates in random order (seed {seed}).")
    extra = {**facts, "shuffle_candidates": seed, "systems_that_read_answers": reading_answers}
    if settings["window_size"] is not None:
        extra |= {name: settings[name] for name in ("window_size", "window_stride")}
    if "oracle" in predictions:
        extra["num_selections"] = settings["num_selections"]
    path = write_results(report, folder / "results.json", {**extra, "predictions": predictions})
    plot = plot_comparison(report, folder / "comparison.png")
    discard(folder / "progress")
    print(f"Results: {path}\nPlot: {plot}")  # As it is: the console would break long paths.


def write_runs(folder: Path, query_ids: list[str], predictions: "dict[str, list[Prediction]]") -> None:
    """Write the passages that each system chose as a TREC run file, scored 0, -1, … by their places.

    Ids that no such file can hold are told, and are no error: the results are written already.
    """
    import re

    from dro_trl.retrieval.trec_run import write_run
    from dro_trl.types import Passage

    for left in folder.glob("*.run.txt"):
        left.unlink()  # Of an evaluation of more systems.
    try:
        for name, predicted in predictions.items():
            found = [
                [Passage(id=id, title="", text="", score=float(-rank)) for rank, id in enumerate(one["ranking"])]
                for one in predicted
            ]
            if any(found):
                slug = re.sub(r"[^a-z]+", "-", name)
                write_run(folder / f"{slug}.run.txt", query_ids, found, slug)
    except ValueError as error:
        print(f"No run files: {error}")
    else:
        print(f"Run files: {folder}")


def write_table(folder: Path, query_ids: list[str], predictions: "dict[str, list[Prediction]]", format: str) -> None:
    """Write predictions as a table where one was asked for; one of an earlier evaluation goes."""
    from dro_trl.evaluation.tables import TABLES, write_predictions

    for name in TABLES:
        (folder / name).unlink(missing_ok=True)
    if format != Predictions.json:
        print(f"Predictions: {write_predictions(folder, query_ids, predictions, format)}")  # type: ignore[arg-type]


def check_results(folder: Path) -> None:
    """Refuse a folder whose `results.json` or plot would be replaced, and is of something else.

    Raises:
        FileExistsError: If it is.
        ValueError: If `results.json` is damaged.
    """
    from dro_trl.evaluation.tables import TABLES
    from dro_trl.files.folders import check_unwritten
    from dro_trl.files.writing import load_object

    names = ("results.json", "comparison.png", "runs", *TABLES)
    path = folder / names[0]
    found = load_object(path, "delete it, or give another --output_dir") if path.is_file() else {}
    check_unwritten(folder, names, [] if "systems" not in found else names)
