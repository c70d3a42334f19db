"""Plots as PNG files: training curves and the comparison of systems."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from dro_trl.evaluation.comparison import EvaluationReport
from dro_trl.files.writing import make_folder

# Okabe and Ito's palette: told apart under every common colour blindness.
COLOURS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442"]
STYLE: dict[str, Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "0.9",
    "legend.frameon": False,
    "savefig.dpi": 150,
}


class Panel(NamedTuple):
    """How one logged metric is drawn."""

    title: str
    unit: str
    share: bool = False
    """Whether the values lie in [0, 1]."""


PANELS = {
    "reward": Panel("Reward", "mean reward"),
    "iw_bound": Panel("Importance-weighted bound", "log-likelihood (nats)"),
    "ess": Panel("Effective sample size", "selections"),
    "entropy": Panel("Selection entropy", "nats"),
    "frac_unique_selections": Panel("Unique selections", "share of samples", share=True),
    "selection_recall": Panel("Recall of sampled selections", "share of gold passages", share=True),
    "loss": Panel("Loss", "loss"),
}


def plot_training(log_history: Sequence[Mapping[str, float]], output_dir: str | Path) -> list[Path]:
    """Draw the training curves of a run, one small panel per logged metric, into `training.png`.

    Args:
        log_history: Records of a transformers Trainer (`trainer.state.log_history`): `step` and, in some of them,
            `reward`, `iw_bound`, `ess` (with `num_selections`, its upper end), `entropy`, `frac_unique_selections`,
            `selection_recall`, `loss`. Other keys are ignored; a metric that no record has gets no panel.
        output_dir: Folder of the image, made if missing.

    Returns:
        The images written: none where no record has any of these metrics.
    """
    series = {key: curve(log_history, key) for key in PANELS}
    present = [key for key, (steps, _) in series.items() if len(steps)]
    if not present:
        return []
    _, most = curve(log_history, "num_selections")
    columns = min(len(present), 4 if len(present) > 6 else 3)
    rows = -(-len(present) // columns)
    with style.context(STYLE):
        figure = Figure(figsize=(3.3 * columns, 2.5 * rows + 0.4), layout=ConstrainedLayoutEngine(w_pad=0.1))
        axes = list(figure.subplots(rows, columns, squeeze=False).flat)
        for key, axis in zip(present, axes, strict=False):
            _draw_curve(axis, *series[key], PANELS[key])
            if key == "ess" and len(most):
                _draw_ess_range(axis, most.max())
        for axis in axes[len(present) :]:
            axis.remove()
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
        return [save_figure(figure, Path(output_dir) / "training.png")]


def plot_comparison(report: EvaluationReport, path: str | Path) -> Path:
    """Draw recall@k, EM and F1 of every system as bars with the 95 % bootstrap intervals of the means.

    Args:
        report: What `compare` returned.
        path: Image to write; missing parent folders are made.

    Returns:
        The path written.
    """
    first = next(iter(report.systems.values()))
    shown = [metric for metric in first if metric.startswith("recall@") or metric in ("em", "f1")]
    metrics = [m for m in shown if any(scores[m] is not None for scores in report.systems.values())]
    width = 0.8 / len(report.systems)
    with style.context(STYLE):
        figure = Figure(figsize=(1.4 * len(metrics) + 2.5, 3.4), layout="constrained")
        axis = figure.subplots()
        for index, (name, scores) in enumerate(report.systems.items()):
            centres = np.arange(len(metrics)) + (index - (len(report.systems) - 1) / 2) * width
            means = np.array([scores[metric] for metric in metrics], dtype=np.float64)  # None: not a number.
            intervals = [report.systems_ci95[name][metric] or [np.nan, np.nan] for metric in metrics]
            errors = np.abs(np.array(intervals).T - means)
            colour = COLOURS[index % len(COLOURS)]
            axis.bar(
                centres,
                means,
                0.9 * width,
                yerr=errors,
                color=colour,
                hatch="///" * (index // len(COLOURS)),  # The colours come again.
                label=name,
                error_kw={"elinewidth": 1},
            )
        axis.set_xticks(range(len(metrics)), [m.upper() if m in ("em", "f1") else m for m in metrics])
        axis.tick_params(axis="x", length=0)
        axis.set(ylim=(0, 1.02), ylabel="mean over questions, 95 % interval")
        figure.legend(loc="outside right upper")
        return save_figure(figure, Path(path))


def curve(records: Sequence[Mapping[str, float]], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the steps at which a metric was logged, and its values."""
    pairs = [(record["step"], record[key]) for record in records if key in record]
    steps, values = np.array(pairs, dtype=np.float64).reshape(-1, 2).T
    return steps, values


def _draw_curve(axis: Axes, steps: np.ndarray, values: np.ndarray, panel: Panel) -> None:
    reach = max(1, len(values) // 20)
    smooth = [values[max(0, i - reach) : i + reach + 1].mean() for i in range(len(values))]
    marker = "." if len(values) < 20 else None  # a single record has no line to draw
    axis.plot(steps, values, color=COLOURS[0], alpha=0.3, linewidth=1, marker=marker, label="each log")
    axis.plot(steps, smooth, color=COLOURS[0], linewidth=1.8, label="running mean (centred)")
    axis.set(title=panel.title, xlabel="step", ylabel=panel.unit)
    if panel.share:
        axis.set_ylim(-0.03, 1.03)


def _draw_ess_range(axis: Axes, most: float) -> None:
    for value, label in [(1, "1: one selection decides"), (most, f"{most:g}: all weigh the same")]:
        axis.axhline(value, color="0.45", linewidth=1, linestyle="--")
        axis.annotate(label, (1, value), (0, 2), ("axes fraction", "data"), "offset points", ha="right", fontsize=7)
    axis.set_ylim(0, 1.15 * most)


def save_figure(figure: Figure, path: Path) -> Path:
    """Write an image, and return its path."""
    make_folder(path.parent)
    figure.savefig(path)
    return path
