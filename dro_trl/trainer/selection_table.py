"""The table of sampled selections: printed, and in experiment trackers in the form of TRL's table of completions."""

import importlib
from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dro_trl.lm.prompts import format_selection

Sample = dict[str, Any]
"""A question's `row`, its `selections` (M lists of indices), `rewards` (M) and `weights` (M)."""

NAME = "selections"
"""What trackers call the table; TRL's is `completions`."""


class Drawn(NamedTuple):
    """A selection of a question, and how it did."""

    text: str
    """As `[3] > [1]`."""
    ids: list[str]
    """Of its passages, in the same order."""
    found: int
    """How many gold passages are among them."""
    times: int
    """How often it was drawn."""
    reward: float
    weight: float
    """Of all its draws together."""


def distinct_selections(sample: Sample) -> Iterator[Drawn]:
    """Yield the distinct selections of a question, heaviest first."""
    row, weights = sample["row"], sample["weights"]
    distinct: dict[tuple[int, ...], list[int]] = {}
    for m, selection in enumerate(sample["selections"]):
        distinct.setdefault(tuple(selection), []).append(m)
    for selection, members in sorted(distinct.items(), key=lambda item: -sum(weights[m] for m in item[1])):
        ids = [row["candidates"][i]["id"] for i in selection]
        reward, weight = sample["rewards"][members[0]], sum(weights[m] for m in members)
        yield Drawn(format_selection(list(selection)), ids, len(_gold(sample) & {*ids}), len(members), reward, weight)


def _gold(sample: Sample) -> set[str]:
    return set(sample["row"].get("gold_ids") or ())


def print_selections(samples: Sequence[Sample], step: int, console: Console | None = None) -> None:
    """Print, for each question, its distinct selections with their counts, rewards and summed weights.

    Args:
        samples: One a question.
        step: Shown in the title.
        console: Where to print; standard output where None.
    """
    table = Table(title=f"Sampled selections at step {step}", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("question, and its selections", overflow="fold")
    for name in ("gold", "drawn", "reward", "weight"):
        table.add_column(name, justify="right", no_wrap=True)
    for sample in samples:
        gold = _gold(sample)
        table.add_row(f"[bold]{escape(sample['row']['question'])}[/]")
        for drawn in distinct_selections(sample):
            table.add_row(
                f"  {escape(drawn.text)}",
                f"{drawn.found}/{len(gold)}" if gold else "–",
                str(drawn.times),
                f"{drawn.reward:.2f}",
                f"{drawn.weight:.2f}",
            )
        table.add_section()
    (console or Console()).print(table)


def selections_frame(samples: Sequence[Sample], step: int) -> Any:
    """Return the table as a data frame of pandas, a row for each distinct selection of a question.

    Args:
        samples: One a question.
        step: Optimizer steps that are done.

    Returns:
        The columns `step`, `question`, `selection`, `passage_ids`, `recall` (NaN where no gold passages are known),
        `drawn`, `reward` and `weight`.
    """
    rows = [
        {
            "step": step,
            "question": sample["row"]["question"],
            "selection": drawn.text,
            "passage_ids": " > ".join(drawn.ids),
            "recall": drawn.found / len(gold) if (gold := _gold(sample)) else float("nan"),
            "drawn": drawn.times,
            "reward": drawn.reward,
            "weight": drawn.weight,
        }
        for sample in samples
        for drawn in distinct_selections(sample)
    ]
    return pa.Table.from_pylist(rows).to_pandas()


def log_selections(samples: Sequence[Sample], step: int, report_to: Collection[str]) -> None:
    """Log the table to those trackers that hold tables: W&B, trackio and MLflow, whose runs Trainer has begun.

    Args:
        samples: One a question.
        step: Optimizer steps that are done.
        report_to: As `TrainingArguments.report_to`.
    """
    trackers = {name: importlib.import_module(name) for name in ("wandb", "trackio", "mlflow") if name in report_to}
    frame = selections_frame(samples, step) if trackers else None
    for name, tracker in trackers.items():
        if name == "mlflow" and tracker.active_run() is not None:
            tracker.log_table(frame, f"{NAME}/{NAME}_{step:05d}.json")
        elif name == "trackio" or (name == "wandb" and tracker.run is not None):
            tracker.log({NAME: tracker.Table(dataframe=frame)})
