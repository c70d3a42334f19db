"""One forward pass for a prompt and all of its continuations.

A row holds a prompt once, then its C continuations one after the other. Every continuation sees the prompt and itself
only, and position ids make each start where the prompt ends, so that the result equals C separate passes over
`prompt + continuation` at the cost of one prompt. Attention goes block by block (`attention`) where a model can,
else over the whole row under a mask.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dro_trl.lm.attention import PADDING, Blocks, blocks_of


@dataclass
class SharedPromptBatch:
    """B prompts with up to C continuations each of T tokens, packed for one forward pass of R rows of L tokens.

    R is B, or the number of all continuations where each has a row of its own.
    """

    input_ids: Tensor
    """(R, L) int64, padded on the right."""
    position_ids: Tensor
    """(R, L) int64."""
    segments: Tensor
    """(R, L) int64: `PADDING`, 0 for the prompt, c + 1 for the row's continuation c."""
    logits_to_keep: Tensor
    """(R, L) bool: the positions that predict a continuation's token."""
    sources: Tensor
    """(B, C, T) int64: for each continuation token, which kept position (row-major) predicts it; 0 where padded."""
    targets: Tensor
    """(B, C, T) int64: the continuation tokens; 0 where padded."""
    target_mask: Tensor
    """(B, C, T) bool: False where padded."""
    blocks: Blocks | None
    """The same without padding, and which tokens attend to which; None where attention is plainly causal and rows have
    one length."""

    def to(self, device: torch.device) -> "SharedPromptBatch":
        """Return the batch on another device."""
        return replace(self, **{name: value.to(device) for name, value in vars(self).items() if value is not None})


# "P P P" with the continuations "a a" and "b" is one row:
#   input_ids     P P P a a b
#   position_ids  0 1 2 3 4 3      each starts where the prompt ends
#   segments      0 0 0 1 1 2      who sees whom: 0 and oneself
#   kept          . . 0 1 . .      the last P predicts the first a and b, the first a the second
#   sources       [[0 1], [0 .]]   so that one kept position may serve several targets


def pack(
    prompts: Sequence[Sequence[int]],
    continuations: Sequence[Sequence[Sequence[int]]],
    scored: Sequence[Sequence[Sequence[bool]]] | None = None,
    separate: bool = False,
) -> SharedPromptBatch:
    """Pack each prompt with its continuations.

    Args:
        prompts: B lists of token ids, none empty.
        continuations: B lists of up to C lists of token ids, none empty.
        scored: For each continuation token, whether its log-probability is wanted (all of them by default). T counts
            the tokens that are.
        separate: Give each continuation a row of its own, behind a copy of its prompt. Attention costs the square of a
            row's length, so that this is faster where prompts are short; and it needs no block mask.

    Returns:
        The batch, on the CPU.

    Raises:
        ValueError: If a prompt or a continuation has no tokens.
    """
    for row, (prompt, rests) in enumerate(zip(prompts, continuations, strict=True)):
        if not prompt or not all(rests):
            raise ValueError(f"row {row}: a prompt and each of its continuations need at least one token")
    if scored is None:
        scored = [[[True] * len(rest) for rest in rests] for rests in continuations]
    rows = list(zip(prompts, continuations, scored, strict=True))
    if separate:
        rows = [(prompt, [r], [f]) for prompt, rests, flags in rows for r, f in zip(rests, flags, strict=True)]
    input_ids, position_ids, segments = [], [], []
    for prompt, rests, _ in rows:
        lengths = [len(prompt), *map(len, rests)]
        input_ids.append([*prompt, *(token for rest in rests for token in rest)])
        starts = [0, *[len(prompt)] * len(rests)]
        position_ids.append(np.concatenate([start + np.arange(n) for start, n in zip(starts, lengths, strict=True)]))
        segments.append(np.repeat(np.arange(len(lengths)), lengths))

    kept, sources = _prediction_positions([prompt for prompt, *_ in rows], [flags for *_, flags in rows])
    if separate:
        of_rows = iter(sources)
        sources = [[next(of_rows)[0] for _ in rests] for rests in continuations]
    targets = [
        [[t for t, wanted in zip(rest, flags, strict=True) if wanted] for rest, flags in zip(*row, strict=True)]
        for row in zip(continuations, scored, strict=True)
    ]
    padded_ids = padded(input_ids)
    logits_to_keep = np.zeros(padded_ids.shape, dtype=bool)
    for row, positions in enumerate(kept):
        logits_to_keep[row, positions] = True
    return SharedPromptBatch(
        input_ids=padded_ids,
        position_ids=padded(position_ids),
        segments=padded(segments, PADDING),
        logits_to_keep=torch.from_numpy(logits_to_keep),
        sources=_pad3(sources),
        targets=_pad3(targets),
        target_mask=_pad3([[[1] * len(rest) for rest in rests] for rests in targets]).bool(),
        blocks=_blocks([(len(prompt), [*map(len, rests)]) for prompt, rests, _ in rows]),
    )


def _blocks(rows: Sequence[tuple[int, list[int]]]) -> Blocks | None:
    """The blocks of rows, given as the lengths of the prompt and of its continuations, where there is use for them."""
    plain = all(len(rests) == 1 for _, rests in rows) and len({prompt + rests[0] for prompt, rests in rows}) == 1
    return None if plain else blocks_of(*zip(*rows, strict=True))


def _prediction_positions(
    prompts: Sequence[Sequence[int]], scored: Sequence[Sequence[Sequence[bool]]]
) -> tuple[list[list[int]], list[list[list[int]]]]:
    """The kept positions of each row, and for each scored token which kept position of the batch predicts it."""
    kept: list[list[int]] = []
    sources: list[list[list[int]]] = []
    count = 0
    for prompt, row_scored in zip(prompts, scored, strict=True):
        predictors: list[list[int]] = []
        start = len(prompt)
        for flags in row_scored:
            before = [len(prompt) - 1, *range(start, start + len(flags) - 1)]
            predictors.append([position for position, wanted in zip(before, flags, strict=True) if wanted])
            start += len(flags)
        row_kept = sorted({position for positions in predictors for position in positions})
        rank = {position: count + i for i, position in enumerate(row_kept)}
        sources.append([[rank[position] for position in positions] for positions in predictors])
        kept.append(row_kept)
        count += len(row_kept)
    return kept, sources


def padded(rows: Sequence[Any], padding: int = 0) -> Tensor:
    """Return rows of numbers, (number of rows, longest), int64, on the CPU; shorter ones end in `padding`."""
    # In numpy: rows are many and short, and an operation of torch takes as long on one of them as on all.
    filled = np.full((len(rows), max(map(len, rows))), padding, dtype=np.int64)
    for values, row in zip(filled, rows, strict=True):
        values[: len(row)] = row
    return torch.from_numpy(filled)


def _pad3(rows: Sequence[Sequence[Sequence[int]]]) -> Tensor:
    width = max(len(row) for row in rows)
    return padded([values for row in rows for values in [*row, *[()] * (width - len(row))]]).view(len(rows), width, -1)
