"""Attention of many small groups on a CPU, written out as matrix products.

PyTorch's own kernel for CPUs goes through a group head by head and wants its key heads repeated. Forward and backward
take it three to five times as long as the products in bfloat16, and 1.4 to 1.8 times in float32; with a few tokens
behind a long prompt ten to twenty times (`examples/benchmarks/group_attention.py`).
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_MOST_QUERIES = 2
"""In widths of a head: with no more, scores that are kept take no more memory than repeated keys and values would."""
_FEWEST_QUERIES = 4
"""Where no heads share keys: with fewer, keys are turned into float32 for too little."""
_SCORES = 1 << 18
"""Scores of the groups that are worked on at once: 1 MiB in float32, which stays in a core's cache."""
_OTHER_WAYS = ("softcap", "position_bias", "cache", "s_aux")
"""Arguments of attention that change what it computes."""


def attends_by_products(query: Tensor, key: Tensor, mask: Tensor | None, dropout: float = 0.0, **kwargs: Any) -> bool:
    """Whether `attend_by_products` is to be used; arguments as transformers hands them to any attention.

    Args:
        query: (G, heads, Q, width).
        key: (G, key heads, S, width).
        mask: What is added to the scores. None where attention is plainly causal: of that PyTorch's kernel leaves out
            half, and is slower in bfloat16 alone. One of bool is not taken.
        dropout: Of attention weights, which these have not.
        kwargs: Others.
    """
    fits = query.shape[2] <= _MOST_QUERIES * query.shape[3] and not torch.compiler.is_compiling()
    fits = fits and (query.shape[2] >= _FEWEST_QUERIES or query.shape[1] > key.shape[1])
    plain = not dropout and all(kwargs.get(name) is None for name in _OTHER_WAYS)
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else query.dtype
    # float16 is not multiplied by processors, and is left to PyTorch.
    worth = dtype == torch.bfloat16 if mask is None else dtype in (torch.float32, torch.bfloat16)
    added = mask is None or mask.is_floating_point()
    return fits and plain and worth and added and query.device.type == "cpu"


def attend_by_products(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float | None = None
) -> Tensor:
    """Return softmax(scaling x query key' + mask) value.

    Scores and their softmax are float32, also where the rest is bfloat16.

    Args:
        query: (G, heads, Q, width).
        key: (G, key heads, S, width); each serves as many heads, one behind the other.
        value: (G, key heads, S, width of values).
        mask: (G or 1, 1, Q, S): 0, or minus infinity at keys that a query does not see; it sees one at least. None
            where Q is S and attention is plainly causal.
        scaling: Of the scores; 1 / sqrt(width) where None.

    Returns:
        (G, Q, heads, width of values).
    """
    scale = query.shape[3] ** -0.5 if scaling is None else scaling
    if mask is None:
        mask = query.new_full(query.shape[2:3] * 2, float("-inf")).triu(1)[None, None]
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        query, key, value = (given.to(dtype) for given in (query, key, value))
    with torch.autocast("cpu", enabled=False):  # It would have the scores in bfloat16.
        found: Tensor = _Products.apply(query, key, value, mask, scale)
    return found


class _Products(torch.autograd.Function):
    """Goes through the groups in portions that stay in the cache, and keeps their attention weights."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float) -> Tensor:
        groups, heads, queries, _ = query.shape
        mask = mask.expand(groups, 1, -1, -1)
        found = value.new_empty(groups, queries, heads, value.shape[3])
        is_trained = any(ctx.needs_input_grad[:3])
        kept = []
        for part in _portions(groups, heads * queries * key.shape[2]):
            asking, keys = _by_key_head(query[part].float(), key), key[part].flatten(0, 1)
            empty = asking.new_empty(())
            scores = torch.baddbmm(empty, asking, keys.float().transpose(1, 2), beta=0, alpha=scale)
            seen = scores.view(-1, heads, queries, key.shape[2]).add_(mask[part])
            weights = seen.softmax(-1).to(value.dtype).view_as(scores)
            result = torch.bmm(weights, value[part].flatten(0, 1))
            found[part] = result.view(-1, heads, queries, value.shape[3]).transpose(1, 2)
            if is_trained:
                kept.append(weights)
        if is_trained:
            ctx.save_for_backward(query, key, value, *kept)
            ctx.scale = scale
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, *kept = ctx.saved_tensors
        groups, heads, queries, _ = query.shape
        gradients = [given.new_empty(given.shape) for given in (query, key, value)]
        for part, weights in zip(_portions(groups, heads * queries * key.shape[2]), kept, strict=True):
            coming = _by_key_head(gradient[part].transpose(1, 2), key)
            asking, keys, values = _by_key_head(query[part], key), key[part].flatten(0, 1), value[part].flatten(0, 1)
            towards = torch.bmm(coming, values.transpose(1, 2)).float()
            shares = weights.float()
            off = towards.sub_((shares * towards).sum(-1, keepdim=True)).mul_(shares).mul_(ctx.scale).to(query.dtype)
            found = (
                torch.bmm(off, keys),
                torch.bmm(off.transpose(1, 2), asking),
                torch.bmm(weights.transpose(1, 2), coming),
            )
            for whole, portion in zip(gradients, found, strict=True):
                whole[part] = portion.view(-1, *whole.shape[1:])
        return *gradients, None, None


def _portions(groups: int, scores: int) -> list[slice]:
    """Divide groups of so many scores each."""
    size = max(1, _SCORES // scores)
    return [slice(start, start + size) for start in range(0, groups, size)]


def _by_key_head(given: Tensor, key: Tensor) -> Tensor:
    """(G, heads, Q, width) as (G x key heads, heads of one x Q, width)."""
    groups, heads, tokens, width = given.shape
    return given.reshape(groups * key.shape[1], heads // key.shape[1] * tokens, width)
