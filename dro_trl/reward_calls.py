"""Calling reward functions: TRL's signature, and what it takes to trust what they return."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from dro_trl import prompts
from dro_trl.types import Question, Selection

RewardFunc = Callable[..., "Sequence[float] | Tensor"]
"""Takes keyword arguments, each a list with one entry per selection (or a tensor of that length), and returns one
number per selection. It is given the columns of the dataset, `prompts` (the questions), `completions` (the selections
as text, `"[3] > [1]"`), `selections` (lists of candidate indices) and, where its signature names them, `answer_logps`
and `answer_mask` (what the generator makes of the answer, see `AnswerLogLikelihood`) and `generated_answers`."""


def reward_name(func: RewardFunc) -> str:
    """Return the name under which a reward is logged."""
    return getattr(func, "__name__", None) or type(func).__name__


def names_parameter(func: RewardFunc, name: str) -> bool:
    """Whether a reward function asks for an argument by name."""
    return name in inspect.signature(func).parameters


class RewardSum:
    """Several rewards, weighted and added up.

    Args:
        funcs: One or several rewards.
        weights: One number for each; all 1 where None.

    Raises:
        ValueError: If there is no reward, or their number is not that of the weights.
    """

    def __init__(self, funcs: RewardFunc | Sequence[RewardFunc], weights: Sequence[float] | None = None) -> None:
        self.funcs: list[RewardFunc] = list(funcs) if isinstance(funcs, Sequence) else [funcs]
        if not self.funcs:
            raise ValueError(
                "reward_funcs=[] holds no reward; name one, or leave it unset for the answer's likelihood"
            )
        if weights is not None and len(weights) != len(self.funcs):
            raise ValueError(
                f"reward_weights={list(weights)} has {len(weights)} entries for {len(self.funcs)} reward functions "
                f"({', '.join(map(reward_name, self.funcs))}); give one for each"
            )
        self.weights = list(weights) if weights is not None else [1.0] * len(self.funcs)

    def names(self, parameter: str) -> bool:
        """Whether one of the rewards asks for an argument by name."""
        return any(names_parameter(func, parameter) for func in self.funcs)

    def __call__(self, columns: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the sum for each of the R selections, (R,) float32, and each reward's values, to log."""
        values = [call_reward(func, columns) for func in self.funcs]
        by_name = {f"rewards/{reward_name(func)}": value for func, value in zip(self.funcs, values, strict=True)}
        return sum(weight * value for weight, value in zip(self.weights, values, strict=True)), by_name  # type: ignore[return-value]


def reward_columns(rows: Sequence[Question], selections: Sequence[Sequence[Selection]]) -> dict[str, list[Any]]:
    """Return the keyword arguments that every reward is given, one entry per selection, row after row."""
    pairs = [(row, selection) for row, drawn in zip(rows, selections, strict=True) for selection in drawn]
    names = dict.fromkeys(name for row in rows for name in row)
    columns: dict[str, list[Any]] = {name: [row.get(name) for row, _ in pairs] for name in names}
    columns["prompts"] = [row["question"] for row, _ in pairs]
    columns["completions"] = [prompts.format_selection(selection) for _, selection in pairs]
    columns["selections"] = [selection for _, selection in pairs]
    return columns


def call_reward(func: RewardFunc, columns: dict[str, Any]) -> Tensor:
    """Call a reward and check what it returns.

    Args:
        func: The reward function.
        columns: Its keyword arguments; `prompts` gives the number of selections R.

    Returns:
        (R,) float32.

    Raises:
        ValueError: If the reward returns another number of values, or one that is not a finite number.
    """
    questions = columns["prompts"]
    values = func(**columns)
    if values is None or len(values) != len(questions) or getattr(values, "ndim", 1) != 1:
        shape = tuple(getattr(values, "shape", ()))
        found = "None" if values is None else f"shape {shape}" if len(shape) > 1 else f"{len(values)} values"
        raise ValueError(
            f"reward function {reward_name(func)} returned {found} for {len(questions)} selections; "
            "return one number for each entry of `completions`"
        )
    if not isinstance(values, Tensor):
        for row, value in enumerate(values):
            if value is None:
                raise ValueError(
                    f"reward function {reward_name(func)} returned None for selection {row} "
                    f"({columns['completions'][row]} of question {questions[row]!r}); return a number"
                )
        values = torch.tensor([float(value) for value in values])
    values = values.detach().float()
    bad = (~values.isfinite()).nonzero().flatten().tolist()
    if bad:
        raise ValueError(
            f"reward function {reward_name(func)} returned {float(values[bad[0]])} for selection {bad[0]} "
            f"({columns['completions'][bad[0]]} of question {questions[bad[0]]!r}), {len(bad)} such values in all; "
            "return finite numbers"
        )
    return values
