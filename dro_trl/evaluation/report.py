"""An evaluation report as printed tables and as a JSON file."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dro_trl.evaluation.comparison import Comparison, EvaluationReport
from dro_trl.evaluation.groups import Value
from dro_trl.files.wording import counted
from dro_trl.files.writing import write_json

FEW = 30
"""Under so many questions a bootstrap interval is too narrow more often than it says."""


def print_report(report: EvaluationReport, console: Console, reading_answers: Collection[str] = ()) -> None:
    """Print the systems' scores, of each group too, then the differences with their intervals, all in 80 columns.

    Args:
        report: What `compare` returned.
        console: Where to print.
        reading_answers: Names of the systems that look at the answer to choose passages; they are marked.
    """
    note = "† reads the answer to choose passages: a reference, no system to use.\n" if reading_answers else ""
    console.print(_scores_table(report, reading_answers), note + _counts(report))
    if report.groups:
        depth = _deepest(report).removeprefix("recall@")
        gold = f"all gold: whether all gold passages are among the first {depth}.\n"
        console.print(_groups_table(report, reading_answers), gold)
    if report.comparisons:
        first = report.comparisons[0]
        bootstrap = f"paired bootstrap, {first.n_resamples:,} resamples, seed {first.seed}"
        console.print(
            _differences_table(report.comparisons, reading_answers), f"* the interval excludes 0 ({bootstrap})\n"
        )


def write_results(report: EvaluationReport, path: str | Path, extra: Mapping[str, Any]) -> Path:
    """Write the report as JSON, replacing `path` in one step so that no half-written file is ever seen.

    Args:
        report: What `compare` returned; its fields become the top-level keys.
        path: File to write; missing parent folders are made.
        extra: More top-level keys (run time, model names, ...), JSON values.

    Returns:
        The path written.

    Raises:
        ValueError: A key of `extra` is one of the report's, or a value in it is NaN or infinite.
        TypeError: A value of `extra` is no JSON value.
    """
    results = asdict(report)
    if taken := sorted(results.keys() & extra.keys()):
        raise ValueError(f"extra has the keys {taken}, which hold the report itself in {path}; rename them")
    path = Path(path)
    write_json(path, results | dict(extra), allow_nan=False)
    return path


def _counts(report: EvaluationReport) -> str:
    first = next(iter(report.systems.values()))
    counts = "Means over " + counted(int(first["n"] or 0), "question")
    if first["n_with_gold"] != first["n"]:
        others = [name for metric, name in (("map", "MAP"), ("all_gold", "all gold")) if metric in first]
        *names, last = ["recall", "MRR", "nDCG", *others]
        what = f"{', '.join(names)} and {last}"
        counts += f"; {what} over the {first['n_with_gold']:,} with gold passages"
    few = f" Intervals of fewer than {FEW} questions are rough." if int(first["n"] or 0) < FEW else ""
    return f"{counts}.{few}\n"


def _scores_table(report: EvaluationReport, reading_answers: Collection[str]) -> Table:
    table = _table("Scores")
    metrics = [metric for metric in next(iter(report.systems.values())) if metric not in ("n", "n_with_gold")]
    table.add_column("system", overflow="fold")
    for metric in metrics:
        # The depth on a line of its own keeps three depths within 80 columns.
        table.add_column(_label(metric).replace("@", "\n@"), justify="right", no_wrap=True)
    for name, scores in report.systems.items():
        table.add_row(_marked(name, reading_answers), *_score_cells(scores, metrics))
    return table


def _score_cells(scores: Mapping[str, float | int | None], metrics: Sequence[str]) -> list[str]:
    return ["–" if scores[metric] is None else f"{scores[metric]:.3f}" for metric in metrics]


def _groups_table(report: EvaluationReport, reading_answers: Collection[str]) -> Table:
    first = next(iter(report.systems.values()))
    counts = ["n"] if first["n"] == first["n_with_gold"] else ["n", "n_with_gold"]
    metrics = [_deepest(report), "all_gold", "em", "f1"]
    table = _table(f"By {escape(str(report.by))}")
    for heading in (escape(str(report.by)), "system"):
        table.add_column(heading, overflow="fold")
    for name in (*counts, *metrics):
        table.add_column(_label(name).replace("@", "\n@"), justify="right", no_wrap=True)
    for group in report.groups:
        table.add_section()
        numbers = [f"{next(iter(group.systems.values()))[name]:,}" for name in counts]
        value = _text(group.value)
        for name, scores in group.systems.items():
            table.add_row(value, _marked(name, reading_answers), *numbers, *_score_cells(scores, metrics))
            value, numbers = "", [""] * len(counts)  # Said once.
    return table


def _deepest(report: EvaluationReport) -> str:
    return [metric for metric in next(iter(report.systems.values())) if metric.startswith("recall@")][-1]


def _text(value: Value) -> str:
    """Return a value as tables show it."""
    if value is None:
        return "–"
    return escape(value if isinstance(value, str) else json.dumps(value))


def _differences_table(comparisons: list[Comparison], reading_answers: Collection[str]) -> Table:
    table = _table("Differences")
    table.add_column("comparison", overflow="fold")
    for heading in ("metric", "n", "difference", "95 % interval"):
        table.add_column(heading, justify="left" if heading == "metric" else "right", no_wrap=True)
    table.add_column("", no_wrap=True)
    previous = None
    for comparison in comparisons:
        pair = " − ".join(_marked(name, reading_answers) for name in (comparison.system, comparison.baseline))
        if previous not in (None, pair):
            table.add_section()
        table.add_row(pair if pair != previous else "", *_difference_cells(comparison))
        previous = pair
    return table


def _difference_cells(comparison: Comparison) -> tuple[str, str, str, str, str]:
    interval = "–"
    if comparison.ci95 is not None:
        interval = "[{:+.3f}, {:+.3f}]".format(*comparison.ci95)
    colour = "green" if comparison.delta > 0 else "red"
    return (
        _label(comparison.metric).replace("\n", " "),
        f"{comparison.n:,}",
        f"{comparison.delta:+.3f}",
        escape(interval),
        f"[bold {colour}]*[/]" if comparison.significant else "",
    )


def _marked(name: str, reading_answers: Collection[str]) -> str:
    return escape(name) + " †" * (name in reading_answers)


def _label(metric: str) -> str:
    names = {"mrr": "MRR", "map": "MAP", "em": "EM", "f1": "F1", "rouge_l": "ROUGE-L", "all_gold": "all\ngold"}
    names |= {"n_with_gold": "with\ngold"}
    return names.get(metric, metric.replace("ndcg", "nDCG"))


def _table(title: str) -> Table:
    return Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", padding=(0, 1, 0, 0))
