"""A study's scores and verdicts in the terminal, at 80 columns."""

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dro_trl.recipes.studies.report import describe
from dro_trl.recipes.studies.statistics import LABELS


def print_study(report: Mapping[str, Any], console: Console) -> None:
    """Print each system's means with their deviation over the seeds, then what the intervals say.

    Args:
        report: What `report.json` holds.
        console: Where to print.
    """
    shown = describe(report)
    table = Table(title="Scores", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("system", overflow="fold")
    for metric in shown["metrics"]:
        table.add_column(LABELS.get(metric, metric).replace("@", "\n@"), justify="right", no_wrap=True)
    for name, system in report["systems"].items():
        table.add_row(escape(name), *(_cell(system[m], system["spread"][m]["sd"]) for m in shown["metrics"]))
    console.print(table)
    if report["rows_finished"] < report["rows_planned"]:
        console.print(f"Not finished: {report['rows_finished']} of {report['rows_planned']} runs.", style="bold")
    for name, comparisons in shown["groups"]:
        console.print(f"[bold]{escape(name[0].upper() + name[1:])}:[/]")
        for comparison in comparisons:
            console.print(f"- {escape(comparison.sentence)}", highlight=False)


def _cell(mean: float | None, deviation: float | None) -> str:
    if mean is None:
        return "–"
    return f"{mean:.3f}" + ("" if deviation is None else f"\n± {deviation:.3f}")
