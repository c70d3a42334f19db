"""`dro-trl evaluate`: a trained pair against the retriever's own order and the pair it started from."""

from pathlib import Path
from typing import Annotated

import typer


def main(
    context: typer.Context,
    model: Annotated[Path, typer.Option("--model", help="Folder that `dro-trl train` wrote, or its name on a hub.")],
    dataset: Annotated[str, typer.Option("--dataset", help="Questions with candidates: a file or a hub name.")],
    output_dir: Annotated[
        Path | None,
        typer.Option(
            "--output_dir", help="Where results go; <model>/evaluation (of one on a hub evaluation/<model>)."
        ),
    ] = None,
    split: Annotated[str, typer.Option("--split", help="Split of a hub dataset.")] = "test",
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Evaluate the first so many rows only.")] = None,
    num_selected: Annotated[
        int | None, typer.Option("--num_selected", min=1, help="K, passages to select; as in training if not given.")
    ] = None,
    window_size: Annotated[
        int | None, typer.Option("--window_size", min=1, help="Candidates that are read at once; all if not given.")
    ] = None,
    window_stride: Annotated[
        int | None,
        typer.Option("--window_stride", min=1, help="By how many a window moves; half of it if not given."),
    ] = None,
    ks: Annotated[
        list[int] | None, typer.Option("--k", min=1, help="Depths of recall and nDCG; K where none.")
    ] = None,
    metrics: Annotated[
        list[str] | None, typer.Option("--metric", help="A further metric, any number of: success, map, acc, rouge_l.")
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch_size", min=1, help="Questions in a batch.")] = 8,
    max_new_tokens: Annotated[int, typer.Option("--max_new_tokens", min=1, help="Longest answer, in tokens.")] = 32,
    start: Annotated[bool, typer.Option(help="Also run the pair that training started from.")] = True,
    systems: Annotated[
        list[str] | None,
        typer.Option("--systems", help="A further system, any number of: no retrieval, random, oracle, …"),
    ] = None,
    num_selections: Annotated[
        int, typer.Option("--num_selections", min=1, help="M, selections that the oracle chooses from.")
    ] = 16,
    shuffle_candidates: Annotated[
        int | None,
        typer.Option(
            "--shuffle_candidates", help="Seed of a random order of the candidates; as they are if not given."
        ),
    ] = None,
    device: Annotated[
        str, typer.Option("--device", help="Where the models run: auto (a GPU if there is one), cpu, cuda:1, …")
    ] = "auto",
    dtype: Annotated[
        str, typer.Option("--dtype", help="Of the weights: auto (bfloat16 if the device has it), float32, …")
    ] = "auto",
    max_thinking_tokens: Annotated[
        int | None,
        typer.Option("--max_thinking_tokens", min=0, help="Longest thought before an answer; as in training."),
    ] = None,
    revision: Annotated[str | None, typer.Option("--revision", help="Of the model, on a hub.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the bootstrap, and of what systems draw.")] = 0,
    on_bad_row: Annotated[
        str, typer.Option("--on_bad_row", "--on-bad-row", help="raise, or skip and count.")
    ] = "raise",
    resume: Annotated[
        bool,
        typer.Option("--resume/--no_resume", help="Go on from what an interrupted evaluation left in the folder."),
    ] = True,
) -> None:
    """Evaluate recall, MRR, nDCG, EM and F1 with paired bootstrap intervals."""
    import time

    from rich.console import Console

    from dro_trl.data.load import load_rag_dataset
    from dro_trl.evaluation.evaluator import DEFAULT_SYSTEMS, evaluate_pair
    from dro_trl.evaluation.parts import choose_place, discard, launched_processes
    from dro_trl.evaluation.plots import plot_comparison
    from dro_trl.evaluation.report import print_report, write_results
    from dro_trl.evaluation.systems import find_systems
    from dro_trl.folders import owned
    from dro_trl.lm.devices import describe, name_of
    from dro_trl.models.names import is_on_hub

    started = time.monotonic()
    on_hub = is_on_hub(model)
    output_dir = output_dir or (Path("evaluation") / "--".join(model.parts) if on_hub else model / "evaluation")
    progress_dir = output_dir / "progress"
    processes = launched_processes(device)
    check_results(output_dir)
    context.with_resource(owned(output_dir, processes.is_main_process))
    place, number_format = choose_place(processes, device, dtype)
    if processes.is_main_process:
        print(f"Evaluating {describe(place, number_format)}")
    if not resume and processes.is_main_process:
        discard(progress_dir)
    found = find_systems([*(DEFAULT_SYSTEMS if start else DEFAULT_SYSTEMS[2:]), *(systems or [])])
    data = load_rag_dataset(dataset, split=split, on_bad_row=on_bad_row)  # type: ignore[arg-type]
    report, predictions = evaluate_pair(
        model,
        data.select(range(min(limit or len(data), len(data)))).to_list(),
        found,
        ks=ks,
        extra_metrics=metrics or (),
        seed=seed,
        batch_size=batch_size,
        max_new_tokens=max_new_tokens,
        device=str(place),
        dtype=name_of(number_format),
        revision=revision,
        max_thinking_tokens=max_thinking_tokens,
        num_selected=num_selected,
        window_size=window_size,
        window_stride=window_stride,
        num_selections=num_selections,
        shuffle_candidates=shuffle_candidates,
        progress_dir=progress_dir,
    )
    if not processes.is_main_process:
        return
    reading_answers = [name for name, system in found.items() if system.reads_answer]
    print_report(report, Console(), reading_answers)
    if shuffle_candidates is not None:
        print(f"Selectors saw the candidates in random order (seed {shuffle_candidates}).")
    output_dir.mkdir(parents=True, exist_ok=True)
    extra = {"model": str(model), "dataset": dataset, "seconds": round(time.monotonic() - started, 1)}
    extra |= {"shuffle_candidates": shuffle_candidates, "systems_that_read_answers": reading_answers}
    if window_size is not None:
        extra |= {"window_size": window_size, "window_stride": window_stride}
    if "oracle" in found:
        extra["num_selections"] = num_selections
    path = write_results(report, output_dir / "results.json", {**extra, "predictions": predictions})
    plot = plot_comparison(report, output_dir / "comparison.png")
    discard(progress_dir)
    print(f"Results: {path}\nPlot: {plot}")  # As it is: the console would break long paths.


def check_results(folder: Path) -> None:
    """Refuse a folder whose `results.json` or plot would be replaced, and is of something else.

    Raises:
        FileExistsError: If it is.
        ValueError: If `results.json` is damaged.
    """
    from dro_trl.atomic_write import load_json
    from dro_trl.folders import check_unwritten

    names = ("results.json", "comparison.png")
    path = folder / names[0]
    found = load_json(path, "delete it, or give another --output_dir") if path.is_file() else {}
    check_unwritten(folder, names, [] if "systems" not in found else names)
