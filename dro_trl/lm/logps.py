"""Log-probabilities of chosen tokens, without a float32 copy of the logits or of their log-softmax."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_BLOCK_ELEMENTS = {"cpu": 2**20}
"""Logits that are computed with at once: few enough to stay in a core's cache."""
_BLOCK_ELEMENTS_ELSEWHERE = 2**24


def chosen_logps(logits: Tensor, positions: Tensor, tokens: Tensor) -> Tensor:
    """Return `log_softmax(logits)[positions, tokens]`, computed in float32 and in blocks of rows.

    `log_softmax` of logits in half precision would keep them twice more in float32 for the backward pass, and compute
    a row again for each token that is chosen from it; here a row is computed once, and only its logits are kept.

    Args:
        logits: (P, V), in any floating dtype.
        positions: (J,) int64, rows of `logits`, in which a row may occur any number of times.
        tokens: (J,) int64, columns.

    Returns:
        (J,) float32 log-probabilities in nats.
    """
    found: Tensor = _ChosenLogps.apply(logits, positions, tokens)
    return found


def _row_blocks(logits: Tensor) -> list[slice]:
    elements = _BLOCK_ELEMENTS.get(logits.device.type, _BLOCK_ELEMENTS_ELSEWHERE)
    rows = max(1, elements // logits.shape[-1])
    return [slice(start, start + rows) for start in range(0, len(logits), rows)]


class _ChosenLogps(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, positions: Tensor, tokens: Tensor) -> Tensor:
        normalisers = logits.new_empty(len(logits), dtype=torch.float32)
        for rows in _row_blocks(logits):
            normalisers[rows] = logits[rows].float().logsumexp(-1)
        ctx.save_for_backward(logits, positions, tokens, normalisers)
        return logits[positions, tokens].float() - normalisers[positions]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        logits, positions, tokens, normalisers = ctx.saved_tensors
        of_row = torch.zeros_like(normalisers).index_add_(0, positions, grad.float())
        found = torch.empty_like(logits)
        for rows in _row_blocks(logits):
            probabilities = (logits[rows].float() - normalisers[rows, None]).exp_()
            found[rows] = probabilities.mul_(-of_row[rows, None])
        found.index_put_((positions, tokens), grad.to(found.dtype), accumulate=True)
        return found, None, None
