"""How a training step's time and memory grow: with candidates, selections, passage length, questions and processes.

    OMP_NUM_THREADS=1 python examples/benchmarks/growth.py

A Qwen2 of 25M random weights in float32 as selector and generator, all weights trained, the default policy. One
variable at a time around N = 20 candidates, M = 4 selections, passages of 100 tokens, one question a step (up to eight
in a batch, the rest accumulated) and one process; K = 5. The largest points want 12 GB. Each run trains `--steps`
steps in fresh processes; the points take turns, `--rounds` times. Time is the mean step, the first left out; memory
the peak of resident memory over the state right before the models are made (everything is imported, and a tiny model
has trained, by then). Points are medians over rounds, bars their range; of several processes the slowest, and the
largest, counts.

What `--output` holds already is not measured again: an interrupted run goes on from there, and more `--rounds` add to
it. Several processes are those of `recipes/accelerate/cpu_2proc.yaml`, one thread each, and want a core each.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from datasets import Dataset
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator
from rich.console import Console
from rich.table import Table
from small_models import QWEN2_25M, PeakMemory, in_fresh_process, questions
from small_runs import StepTimes, make_trainer

from dro_trl.evaluation.plots import COLOURS, STYLE, save_figure
from dro_trl.files.writing import write_json

BASE = {"num_candidates": 20, "num_selections": 4, "passage_tokens": 100, "num_questions": 1, "num_processes": 1}
VALUES = {
    "num_candidates": [5, 10, 20, 40, 100],
    "num_selections": [2, 4, 8, 16, 64],
    "passage_tokens": [50, 100, 200],
    "num_questions": [1, 2, 4, 8, 32],
    "num_processes": [1, 2],
}
LARGEST_BATCH = 8
"""Questions in a batch; the others of a step are accumulated."""
LABELS = {
    "num_candidates": "N, candidates",
    "num_selections": "M, selections",
    "passage_tokens": "tokens a passage",
    "num_questions": "questions a step",
    "num_processes": "processes",
}
MEASURES = {"seconds": "seconds a step", "peak_mib": "peak memory a process (MiB)"}
CONFIG = Path(__file__).resolve().parents[2] / "recipes" / "accelerate" / "cpu_2proc.yaml"
TINY = {**QWEN2_25M, "hidden_size": 48, "intermediate_size": 48}

Point = dict[str, int]


def points() -> list[Point]:
    """Return every combination that is measured, the one in the middle first, and once."""
    found: list[Point] = [BASE]
    for variable, values in VALUES.items():
        found += [point for value in values if (point := {**BASE, variable: value}) not in found]
    return found


def train(point: Point, steps: int, shape: Mapping[str, Any] = QWEN2_25M) -> dict[str, float]:
    """Train this process's part of a point's steps, after one of a tiny model; return what it took."""
    torch.set_num_threads(1)
    # The whole batch is cut into processes.
    num_rows = steps * point["num_questions"] * point["num_processes"]
    rows = Dataset.from_list(questions(num_rows, point["num_candidates"], point["passage_tokens"]))
    batch = min(point["num_questions"], LARGEST_BATCH)
    options = {
        "num_selections": point["num_selections"],
        "per_device_train_batch_size": batch,
        "gradient_accumulation_steps": point["num_questions"] // batch,
    }
    with tempfile.TemporaryDirectory() as folder:
        make_trainer(rows, folder, TINY, max_steps=1, **options).train()
        peak = PeakMemory()
        times, of_processor = StepTimes(), StepTimes(time.process_time)
        trainer = make_trainer(rows, folder, shape, max_steps=steps, **options)
        for clock in (times, of_processor):
            trainer.add_callback(clock)
        trainer.train()
    assert trainer.args.world_size == point["num_processes"]
    found = {
        "seconds": statistics.mean(times.seconds[1:]),
        "processor_seconds": statistics.mean(of_processor.seconds[1:]),
        "peak_mib": peak.mib(),
    }
    parts = gather_object([found])
    return {name: max(part[name] for part in parts) for name in found}


def run(point: Point, steps: int) -> dict[str, float]:
    """Return what a point takes, measured in processes of its own."""
    if point["num_processes"] == 1:
        return in_fresh_process(train, point, steps)
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "run.json"
        launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(CONFIG)]
        launch += ["--num_processes", str(point["num_processes"]), "--main_process_port", "0", __file__]
        arguments = ["--of_one_point", json.dumps(point), "--steps", str(steps), "--output", str(output)]
        subprocess.run([*launch, *arguments], check=True)
        return json.loads(output.read_text())


def measure(path: Path, wanted: Sequence[Point], rounds: int, steps: int) -> list[dict[str, Any]]:
    """Measure what the file at `path` does not hold yet, and keep each run there as soon as it is done."""
    rows = json.loads(path.read_text()) if path.exists() else []
    for number in range(rounds):
        for point in wanted:
            row = next((row for row in rows if row["point"] == point), None)
            if row is None:
                rows.append(row := {"point": point, "runs": []})
            if len(row["runs"]) > number:
                continue
            row["runs"].append({"steps": steps, **run(point, steps)})
            write_json(path, rows)
    return rows


def series(rows: Sequence[dict[str, Any]], variable: str, measure: str) -> list[tuple[int, list[float]]]:
    """Return the values of a variable, in order, with what every run found; the others are as in `BASE`."""
    others = BASE.keys() - {variable}
    found = [row for row in rows if all(row["point"][name] == BASE[name] for name in others)]
    return sorted((row["point"][variable], [run[measure] for run in row["runs"]]) for row in found)


def plot(rows: Sequence[dict[str, Any]], path: Path, measures: Mapping[str, str]) -> Path:
    """Draw a column of panels for each variable, a row for each measure."""
    shown = [variable for variable in VALUES if len(series(rows, variable, "peak_mib")) > 1]
    with style.context(STYLE):
        figure = Figure(figsize=(9, 4.6), layout="constrained")
        axes = figure.subplots(len(measures), len(shown), squeeze=False, sharey="row", sharex="col")
        for panels, (measure, label), colour in zip(axes, measures.items(), COLOURS, strict=False):
            for axis, variable in zip(panels, shown, strict=True):
                _draw(axis, series(rows, variable, measure), BASE[variable], colour)
            panels[0].set(ylabel=label, yscale="log")
            panels[0].yaxis.set(
                major_locator=LogLocator(subs=(1, 2, 5)), minor_locator=NullLocator(), major_formatter="{x:g}"
            )
        for axis, variable in zip(axes[-1], shown, strict=True):
            axis.set(xlabel=LABELS[variable], xscale="log")
            axis.set_xticks(VALUES[variable], labels=map(str, VALUES[variable]))
            axis.set_xticks([], minor=True)
        return save_figure(figure, path)


def _draw(axis: Axes, found: Sequence[tuple[int, list[float]]], middle: int, colour: str) -> None:
    values = [value for value, _ in found]
    medians = [statistics.median(runs) for _, runs in found]
    axis.plot(values, medians, color=colour, linewidth=1.6, marker="o", markersize=4)
    axis.vlines(values, [min(runs) for _, runs in found], [max(runs) for _, runs in found], color=colour, linewidth=1)
    if middle in values:  # Where the variables meet.
        axis.plot(middle, medians[values.index(middle)], "o", color=colour, markersize=9, fillstyle="none")


def table(rows: Sequence[dict[str, Any]]) -> Table:
    """Return medians and ranges, and their ratio to those of `BASE`, by variable."""
    shown = Table("variable", "value", "seconds a step", "ratio", "of the processor", "peak (MiB)", "ratio")
    for variable, label in LABELS.items():
        columns = {name: dict(series(rows, variable, name)) for name in ("seconds", "processor_seconds", "peak_mib")}
        middle = {name: statistics.median(found[BASE[variable]]) for name, found in columns.items()}
        for value in columns["seconds"]:
            text, ratio = {}, {}
            for name, found in columns.items():
                runs, digits = found[value], 0 if name == "peak_mib" else 2
                text[name] = f"{statistics.median(runs):.{digits}f} ({min(runs):.{digits}f}–{max(runs):.{digits}f})"
                ratio[name] = f"{statistics.median(runs) / middle[name]:.2f}"
            seconds, processor, peak = (text[name] for name in columns)
            shown.add_row(label, str(value), seconds, ratio["seconds"], processor, peak, ratio["peak_mib"])
    return shown


def main() -> None:
    """Measure, print, write JSON and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variables", nargs="+", choices=VALUES, default=list(VALUES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2, help="in a run, the first of which is left out")
    parser.add_argument("--output", type=Path, default=Path("growth.json"))
    parser.add_argument("--plot", type=Path, default=Path("growth.png"))
    parser.add_argument(
        "--processor_seconds", action="store_true", help="draw those, where other work shares the machine"
    )
    parser.add_argument("--of_one_point", type=json.loads, help="used inside, by the processes of one point")
    options = parser.parse_args()
    if options.of_one_point:
        found = train(options.of_one_point, options.steps)
        if torch.distributed.get_rank() == 0:
            write_json(options.output, found)
        return
    wanted = [
        point
        for point in points()
        if all(point[name] == value or name in options.variables for name, value in BASE.items())
    ]
    rows = measure(options.output, wanted, options.rounds, options.steps)
    Console(width=120).print(table(rows))
    measures = dict(MEASURES)
    if options.processor_seconds:
        measures = {"processor_seconds": "processor seconds a step", "peak_mib": MEASURES["peak_mib"]}
    print(f"Results: {options.output}\nPlot: {plot(rows, options.plot, measures)}")


if __name__ == "__main__":
    main()
