"""Calling reward functions: TRL's signature, and what it takes to trust what they return."""

import asyncio
import functools
import inspect
import threading
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from dro_trl.lm import prompts
from dro_trl.types import Question, Selection

RewardFunc = Callable[..., "Sequence[float | None] | Tensor | Awaitable[Sequence[float | None] | Tensor]"]
"""Takes keyword arguments, each a list with one entry per selection (or a tensor of that length), and returns one
number per selection. It is given the columns of the dataset, `prompts` (the questions), `completions` (the selections
as text, `"[3] > [1]"`), `selections` (lists of candidate indices) and, where its signature names them, `answer_logps`
and `answer_mask` (what the generator makes of the answer, see `AnswerLogLikelihood`) and `generated_answers`.

As in TRL it may be asynchronous, is given `trainer_state` and `log_metric(name, value)`, and may return None where it
does not apply: for all selections of a question, since weights compare these with one another, or for none."""


def reward_name(func: RewardFunc) -> str:
    """Return the name under which a reward is logged."""
    while isinstance(func, functools.partial):
        func = func.func
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
        ValueError: If there is no reward, one is no function, or their number is not that of the weights.
    """

    def __init__(self, funcs: RewardFunc | Sequence[RewardFunc], weights: Sequence[float] | None = None) -> None:
        several = isinstance(funcs, Sequence) and not isinstance(funcs, str)
        self.funcs: list[RewardFunc] = list(funcs) if several else [funcs]  # type: ignore[arg-type, list-item]
        for func in self.funcs:
            if isinstance(func, torch.nn.Module) or not callable(func):
                raise ValueError(
                    f"reward_funcs: {func if isinstance(func, str) else type(func).__name__} is no function; a reward "
                    "that calls a model is a function that does so (docs/extending.md)"
                )
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
        """Return the sum for each selection, (R,) float32 on the CPU, and what each reward and metric said, to log.

        Raises:
            ValueError: If a reward returns what it may not, or none applies to a question.
        """
        metrics: dict[str, list[float]] = defaultdict(list)
        given = {**columns, "log_metric": lambda name, value: metrics[name].append(float(value))}
        values = torch.stack(call_rewards(self.funcs, given))
        unrewarded = values.isnan().all(0).nonzero().flatten().tolist()
        if unrewarded:
            raise ValueError(
                f"reward function {' and '.join(map(reward_name, self.funcs))} returned None for selection "
                f"{unrewarded[0]} ({_shown(columns, unrewarded[0])}): no reward applies to the question; return a "
                "number, or leave such questions out of the dataset"
            )
        by_name = {name: torch.tensor(found) for name, found in metrics.items()}
        for func, value in zip(self.funcs, values, strict=True):
            by_name[f"rewards/{reward_name(func)}"] = value[~value.isnan()]
        return torch.tensor(self.weights) @ values.nan_to_num(nan=0.0), by_name


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
    """Call a reward and check what it returns; see `call_rewards`."""
    return call_rewards([func], columns)[0]


def call_rewards(funcs: Sequence[RewardFunc], columns: dict[str, Any]) -> list[Tensor]:
    """Call rewards, asynchronous ones at the same time, and check what they return.

    Args:
        funcs: The reward functions.
        columns: Their keyword arguments; `prompts` gives the number of selections R.

    Returns:
        For each, (R,) float32 on the CPU, NaN where it does not apply.

    Raises:
        ValueError: If a reward asks for what there is not, returns another number of values, one that is not a finite
            number, or None for some of a question's selections only.
    """
    for func in funcs:
        try:
            inspect.signature(func).bind(**columns)
        except TypeError as error:
            raise ValueError(
                f"reward function {reward_name(func)}: {error}; it is given {', '.join(columns)}, and ends in **kwargs"
            ) from error
    returned = [func(**columns) for func in funcs]
    waiting = [index for index, values in enumerate(returned) if inspect.isawaitable(values)]
    if waiting:
        together = _all_of([returned[index] for index in waiting])  # type: ignore[misc]
        for index, values in zip(
            waiting, asyncio.run_coroutine_threadsafe(together, _event_loop()).result(), strict=True
        ):
            returned[index] = values
    return [_checked(func, values, columns) for func, values in zip(funcs, returned, strict=True)]


async def _all_of(awaitables: Sequence[Awaitable[Any]]) -> list[Any]:
    return await asyncio.gather(*awaitables)


@functools.cache
def _event_loop() -> asyncio.AbstractEventLoop:
    """One loop for all calls, since clients keep connections; in its own thread, since a notebook has one running."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="rewards", daemon=True).start()
    return loop


def _checked(func: RewardFunc, values: Any, columns: dict[str, Any]) -> Tensor:
    questions: list[str] = columns["prompts"]
    if values is None or len(values) != len(questions) or getattr(values, "ndim", 1) != 1:
        shape = tuple(getattr(values, "shape", ()))
        found = "None" if values is None else f"shape {shape}" if len(shape) > 1 else f"{len(values)} values"
        raise ValueError(
            f"reward function {reward_name(func)} returned {found} for {len(questions)} selections; "
            "return one number for each entry of `completions`"
        )
    if isinstance(values, Tensor):
        rewards, applies = values.detach().float().cpu(), torch.ones(len(questions), dtype=torch.bool)
    else:
        applies = torch.tensor([value is not None for value in values], dtype=torch.bool)
        rewards = torch.tensor([float("nan" if value is None else value) for value in values])
    rewarded = {question for question, applied in zip(questions, applies.tolist(), strict=True) if applied}
    for row in (~applies).nonzero().flatten().tolist():
        if questions[row] in rewarded:
            raise ValueError(
                f"reward function {reward_name(func)} returned None for selection {row} ({_shown(columns, row)}), and "
                "a number for another of its selections; return numbers for all of them, or None for all"
            )
    bad = (~rewards.isfinite() & applies).nonzero().flatten().tolist()
    if bad:
        raise ValueError(
            f"reward function {reward_name(func)} returned {float(rewards[bad[0]])} for selection {bad[0]} "
            f"({_shown(columns, bad[0])}), {len(bad)} such values in all; return finite numbers"
        )
    return rewards


def _shown(columns: dict[str, Any], row: int) -> str:
    return f"{columns['completions'][row]} of question {columns['prompts'][row]!r}"
