"""Selecting from more candidates than a prompt can hold."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from dro_trl.policies.base import SelectionPolicy
from dro_trl.types import Question, Selection

Scored = tuple[Selection, list[float]]
"""A selection, and a score for each passage in it."""


@dataclass(frozen=True)
class SlidingWindows:
    """Windows that move from the end of a list of candidates to its beginning (RankGPT, Sun et al., 2023)."""

    size: int
    """How many candidates a window holds."""
    stride: int
    """By how many candidates it moves."""

    @classmethod
    def make(cls, size: int | None, stride: int | None, num_selected: int) -> "SlidingWindows | None":
        """Return windows of a size and a stride, half the size where None; none where both are None.

        Raises:
            ValueError: If there is a stride alone, or a window would leave out candidates selected in the one before.
        """
        if size is None:
            if stride is not None:
                raise ValueError(f"window_stride={stride} without a window_size; give both, or neither")
            return None
        stride = max(size // 2, 1) if stride is None else stride
        if size <= num_selected:
            raise ValueError(
                f"window_size={size} leaves nothing to choose with num_selected={num_selected}; give a larger one"
            )
        if not 1 <= stride <= size - num_selected:
            raise ValueError(
                f"window_stride={stride} with window_size={size} and num_selected={num_selected}: the next window "
                f"must hold all that is selected in one; set window_stride to between 1 and {size - num_selected}"
            )
        return cls(size, stride)

    def places(self, num_candidates: int, stride: int) -> list[slice]:
        """Return where the windows stand, the first at the end of the list and the last at its beginning."""
        starts = [*range(num_candidates - self.size, 0, -stride), 0]
        return [slice(start, start + self.size) for start in starts]


def select_by_windows(
    best: Callable[[Sequence[Question]], list[Scored]], rows: Sequence[Question], windows: SlidingWindows
) -> list[Scored]:
    """Move the best K of each window to its beginning, so that the best K of the list are the first at the end.

    Args:
        best: Selects K of each row's candidates, which are no more than a window holds.
        rows: Questions with any number of candidates; the windows of all of them move together.
        windows: Their size and stride.

    Returns:
        For each row its selection, with the scores that it had in the last window.
    """
    orders = [list(range(len(row["candidates"]))) for row in rows]
    places = [windows.places(len(order), windows.stride) for order in orders]
    found: list[Scored] = [([], []) for _ in rows]
    for step in range(max(map(len, places), default=0)):
        moving = [i for i in range(len(rows)) if step < len(places[i])]
        shown = [orders[i][places[i][step]] for i in moving]
        selected = best([_only(rows[i], window) for i, window in zip(moving, shown, strict=True)])
        for i, window, (selection, scores) in zip(moving, shown, selected, strict=True):
            chosen = [window[j] for j in selection]
            orders[i][places[i][step]] = chosen + [j for j in window if j not in chosen]
            found[i] = chosen, scores
    return found


def select_by_scores(
    score: Callable[[Sequence[Question]], list[list[float]]],
    rows: Sequence[Question],
    windows: SlidingWindows,
    policy: SelectionPolicy,
) -> list[Scored]:
    """Score a window's passages at a time, and select from the scores of all: for scores that do not depend on others.

    Args:
        score: Returns a score for each of a row's candidates, without the retriever's prior.
        rows: Questions with any number of candidates.
        windows: Their size; they do not overlap, but for the last two.
        policy: Says K and the prior, which is taken over all candidates.

    Returns:
        For each row the K of the highest scores, and these.
    """
    flat = [(i, place) for i, row in enumerate(rows) for place in windows.places(len(row["candidates"]), windows.size)]
    found = score([_only(rows[i], range(len(rows[i]["candidates"]))[place]) for i, place in flat])
    totals = [torch.zeros(len(row["candidates"])) for row in rows]
    for (i, place), scores in zip(flat, found, strict=True):
        totals[i][place] = torch.tensor(scores)
    tops = [(total + policy.prior(row)).topk(policy.num_selected) for total, row in zip(totals, rows, strict=True)]
    return [(top.indices.tolist(), top.values.tolist()) for top in tops]


def _only(row: Question, kept: Sequence[int]) -> Question:
    return Question(**{**row, "candidates": [row["candidates"][i] for i in kept]})
