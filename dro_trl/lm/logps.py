"""Log-probabilities of chosen tokens, without a float32 copy of the logits or of their log-softmax."""

from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from dro_trl.lm.attention import attention_mask, use_blocks
from dro_trl.lm.older_versions import forward_keeping
from dro_trl.lm.packing import SharedPromptBatch

Reduction = Literal["sum", "mean"]
Aliases = Literal["first", "best", "marginal"]

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


def kept_logits(model: nn.Module, batch: SharedPromptBatch) -> Tensor:
    """Return the logits at the kept positions, (number kept, V): never sequence x vocabulary."""
    blocks, on_cpu, dtype = batch.blocks, batch.input_ids.device.type == "cpu", next(model.parameters()).dtype
    read = {name: getattr(batch, name) for name in ("input_ids", "position_ids", "logits_to_keep")}
    if blocks is not None and use_blocks(model, blocks.longest):
        read = {name: value[blocks.texts, blocks.columns][None] for name, value in read.items()}
        if on_cpu and blocks.mask is not None:
            blocks = replace(blocks, mask=added_once(blocks.mask, dtype))
        # An empty mask: else one would be made of the positions, and none could be used.
        read |= {"blocks": blocks, "attention_mask": batch.input_ids.new_empty(1, 1, 0, 0)}
    elif batch.segments.max() > 1:
        mask = attention_mask(model, batch.segments, batch.position_ids, batch.segments, batch.position_ids)
        read["attention_mask"] = added_once(mask, dtype) if on_cpu else mask
    else:  # One continuation is plain causal attention: no mask, since padding comes last.
        del read["position_ids"]
    logits: Tensor = forward_keeping(model, **read, use_cache=False).logits
    return logits


def added_once(mask: Any, dtype: torch.dtype) -> Any:
    """Turn what may be seen into what is added to the attention's scores, for all layers together.

    The CPU's kernel does so in each layer, and each layer keeps its own sequence x sequence result for the backward
    pass. Kernels of other devices want the query's dtype, which is not known here where weights are sharded.
    """
    if isinstance(mask, dict):
        return {name: added_once(part, dtype) for name, part in mask.items()}
    if mask.dtype != torch.bool:
        return mask
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, float("-inf"))


def token_logps(model: nn.Module, batch: SharedPromptBatch) -> Tensor:
    """Return the log-probability of every continuation token in float32 nats, (B, C, T), 0 where padded."""
    mask = batch.target_mask
    logps = chosen_logps(kept_logits(model, batch), batch.sources[mask], batch.targets[mask])
    return torch.zeros_like(batch.targets, dtype=logps.dtype).masked_scatter(batch.target_mask, logps)


def reduce_answer_logps(token_logps: Tensor, mask: Tensor, reduction: Reduction, aliases: Aliases) -> Tensor:
    """Reduce the log-probabilities of an answer's aliases to one number.

    Args:
        token_logps: (..., A, T) log-probabilities of the tokens of A aliases, in nats.
        mask: (..., A, T) bool, False where padded; an alias without tokens is left out.
        reduction: `"sum"` is log p_g(y|x, d_z); `"mean"` divides by the number of tokens, a length-dependent
            temperature.
        aliases: `"first"` takes the first alias, `"best"` the likeliest, `"marginal"` the logarithm of their sum.

    Returns:
        (...,) in nats (per token for `"mean"`).

    Raises:
        ValueError: If `reduction` or `aliases` is unknown.
    """
    if reduction not in ("sum", "mean"):
        raise ValueError(f"likelihood_reduction={reduction!r} is unknown; use 'sum' or 'mean'")
    lengths = mask.sum(-1)
    logps = (token_logps * mask).sum(-1)
    if reduction == "mean":
        logps = logps / lengths.clamp(min=1)
    if aliases == "first":
        return logps[..., 0]
    logps = logps.masked_fill(lengths == 0, float("-inf"))
    if aliases == "best":
        return logps.amax(-1)
    if aliases == "marginal":
        return logps.logsumexp(-1)
    raise ValueError(f"likelihood_aliases={aliases!r} is unknown; use 'first', 'best' or 'marginal'")
