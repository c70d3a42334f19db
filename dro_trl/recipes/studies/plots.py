"""A study's plots, each small enough for a phone and drawn twice: on a light ground and on a dark one."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.rcsetup import cycler

from dro_trl.evaluation.plots import PANELS, STYLE, Panel, curve, save_figure
from dro_trl.recipes.studies.plan import OWN_ORDER, START_SYSTEMS
from dro_trl.recipes.studies.statistics import LABELS, SeededComparison

CURVES = {
    **{name: PANELS[name] for name in ("reward", "selection_recall")},
    "selection_recall/1": Panel("Recall of the first gold passage", "share of selections", share=True),
    "selection_recall/2": Panel("Recall of the second gold passage", "share of selections", share=True),
    **{name: PANELS[name] for name in ("ess", "entropy", "frac_unique_selections")},
    "grad_norm": Panel("Norm of the gradient", "norm, before clipping"),
}
"""What is drawn over the optimizer steps, as far as the logs have it."""

METHODS_IN_A_PLOT = 6

_COMMON: dict[str, Any] = {**STYLE, "font.size": 10, "axes.titlesize": 11, "savefig.dpi": 200}
# Okabe and Ito's colours, told apart under every common colour blindness; lighter ones on the dark ground.
_THEMES: dict[str, dict[str, Any]] = {
    "": {
        "figure.facecolor": "#ffffff",
        "axes.facecolor": "#ffffff",
        "axes.prop_cycle": cycler(color=["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]),
    },
    ".dark": {
        "figure.facecolor": "#1a1d23",
        "axes.facecolor": "#1a1d23",
        "grid.color": "#343942",
        **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), "#d9dde3"),
        "axes.edgecolor": "#717885",
        "axes.prop_cycle": cycler(color=["#4FA8E0", "#F0814A", "#2FC79A", "#DE98BF", "#F2B93B", "#A5D8F5"]),
    },
}
_WIDTH = 4.2  # Inches: a phone shows it at nearly its own size, with letters as large as the text's.


class Plot(NamedTuple):
    """An image and what it shows."""

    name: str
    """Of the files: `name.png` and `name.dark.png`."""
    alt: str
    """What it shows, for those who do not see it."""


_Point = tuple[str, float, list[float] | None, list[float]]
"""A system's name, its mean, the interval of it, and the mean of each seed."""

Histories = Mapping[str, Sequence[Sequence[Mapping[str, float]]]]
"""Per method the log of each of its seeds."""


def plot_curves(histories: Histories, folder: Path) -> list[Plot]:
    """Draw what the logs have of `CURVES`: a line a method, its seeds' range shaded.

    With more than `METHODS_IN_A_PLOT` methods there are several plots of each, all with the first method.

    Args:
        histories: Per method the `log_history` of each seed.
        folder: Where the images go.
    """
    first, *others = histories
    size = METHODS_IN_A_PLOT - 1
    groups = [[first, *others[start : start + size]] for start in range(0, max(1, len(others)), size)]
    plots = []
    for key, panel in CURVES.items():
        for number, group in enumerate(groups, start=1):
            lines = {method: _band(histories[method], key) for method in group}
            drawn = {method: line for method, line in lines.items() if len(line[0])}
            if not drawn:
                continue
            part = f" ({number} of {len(groups)})" if len(groups) > 1 else ""
            shown = panel._replace(title=f"{panel.title}{part}")
            name = key.replace("/", "_") + (f".{number}" if len(groups) > 1 else "")
            _draw(lambda figure, d=drawn, p=shown: _draw_lines(figure, d, p), folder / name, 2.7, len(drawn))
            alt = f"{shown.title} over the optimizer steps, of {', '.join(drawn)}; the range over the seeds is shaded."
            plots.append(Plot(name, alt))
    return plots


def plot_scores(systems: Mapping[str, Mapping[str, Any]], metrics: Sequence[str], folder: Path) -> list[Plot]:
    """Draw every system's mean of each metric, with its 95 % interval and a dot for each seed.

    Args:
        systems: Per system what `summarise` returned.
        metrics: Which of them.
        folder: Where the images go.
    """
    plots = []
    for metric in metrics:
        shown = {name: summary for name, summary in systems.items() if summary.get(metric) is not None}
        if not shown:
            continue
        label = LABELS.get(metric, metric)
        points = [
            (name, summary[metric], spread["ci95"], list(spread["by_seed"].values()))
            for name, summary in shown.items()
            for spread in [summary["spread"][metric]]
        ]
        name = f"scores.{metric.replace('@', '_')}"
        title = f"{label} on the held-out questions"
        _draw(lambda figure, p=points, t=title: _draw_points(figure, p, t, None), folder / name, 0.3 * len(points) + 1)
        plots.append(Plot(name, f"{title}: mean, 95 % interval and a dot for each seed, of {', '.join(shown)}."))
    return plots


def plot_differences(comparisons: Sequence[SeededComparison], folder: Path) -> list[Plot]:
    """Draw the differences from one baseline, metric by metric, with their 95 % intervals.

    Args:
        comparisons: All with the same baseline.
        folder: Where the images go.
    """
    plots = []
    for metric in dict.fromkeys(comparison.metric for comparison in comparisons):
        points: list[_Point] = [(c.system, c.delta, c.ci95, []) for c in comparisons if c.metric == metric]
        label, baseline = LABELS.get(metric, metric), comparisons[0].baseline
        name = f"differences.{metric.replace('@', '_')}"
        title = f"{label}: difference from {baseline}"
        _draw(lambda figure, p=points, t=title: _draw_points(figure, p, t, 0), folder / name, 0.3 * len(points) + 1)
        plots.append(Plot(name, f"{title}, with 95 % intervals; an interval that holds 0 tells nothing apart."))
    return plots


def _draw(draw: Any, path: Path, height: float, legend_rows: int = 0) -> None:
    for suffix, theme in _THEMES.items():
        with style.context({**_COMMON, **theme}):
            figure = Figure(figsize=(_WIDTH, height + 0.11 * legend_rows), layout="constrained")
            draw(figure)
            save_figure(figure, path.with_name(f"{path.name}{suffix}.png"))


def _band(histories: Sequence[Sequence[Mapping[str, float]]], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the steps that every seed logged, (steps,), and the values there, (seeds, steps)."""
    curves = [dict(zip(*curve(records, key), strict=True)) for records in histories]
    steps = sorted(set.intersection(*(set(points) for points in curves))) if curves else []
    return np.array(steps), np.array([[points[step] for step in steps] for points in curves])


def _draw_lines(figure: Figure, lines: Mapping[str, tuple[np.ndarray, np.ndarray]], panel: Panel) -> None:
    axis: Axes = figure.subplots()
    for index, (method, (steps, values)) in enumerate(lines.items()):
        colour = f"C{index}"
        marker = "." if len(steps) < 20 else None
        axis.plot(steps, values.mean(0), color=colour, linewidth=1.6, marker=marker, label=method)
        axis.fill_between(steps, values.min(0), values.max(0), color=colour, alpha=0.15, linewidth=0)
    axis.set(title=panel.title, xlabel="optimizer step", ylabel=panel.unit)
    if panel.share:
        axis.set_ylim(-0.03, 1.03)
    longest = max(map(len, lines))
    figure.legend(loc="outside lower center", ncols=3 if longest < 12 else 2 if longest < 24 else 1, fontsize=9)


def _draw_points(
    figure: Figure,
    points: Sequence[_Point],
    title: str,
    reference: float | None,
) -> None:
    axis: Axes = figure.subplots()
    for row, (name, mean, interval, seeds) in enumerate(points):
        colour = "C0"
        if reference is None and (name in START_SYSTEMS or name.endswith(OWN_ORDER)):
            colour = "0.55"
        elif reference is not None and interval is not None and not interval[0] <= reference <= interval[1]:
            colour = "C1"
        axis.plot(seeds, [row + 0.27] * len(seeds), ".", color="0.55", markersize=4)
        if interval:
            axis.plot(interval, [row, row], color=colour, linewidth=2, solid_capstyle="butt")
        axis.plot([mean], [row], "o", color=colour, markersize=5)
    if reference is not None:
        axis.axvline(reference, color="0.5", linewidth=1, linestyle="--")
    else:
        axis.set_xlim(-0.02, 1.02)
    axis.set_yticks(range(len(points)), [_folded(name) for name, *_ in points])
    axis.set_ylim(len(points) - 0.5, -0.5)
    axis.grid(visible=True, axis="x")
    axis.grid(visible=False, axis="y")
    figure.suptitle(title, fontsize=11, x=0.02, ha="left")


def _folded(name: str, width: int = 20) -> str:
    """Break a long name once, at the space nearest to its middle."""
    spaces = [index for index, letter in enumerate(name) if letter == " "]
    if len(name) <= width or not spaces:
        return name
    middle = min(spaces, key=lambda index: abs(index - len(name) / 2))
    return f"{name[:middle]}\n{name[middle + 1 :]}"
