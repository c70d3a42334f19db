"""Attention for a prompt with several continuations in one row, without most of the pairs that may not see each other.

With a mask over the whole row, attention multiplies every pair of tokens and then hides most of them: with twenty
passages behind a short prompt, 34 of 35. Here the prompts attend as any text does, and the continuations in one of
two ways: each in a row of its own behind the prompt's keys, which are not computed again; or, where copies of a long
prompt's keys would cost more than they save, all continuations of a row against the row.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "sdpa_blocks"
"""The attention implementation's name: `sdpa`, unless a call is given `blocks`."""
MASKED_LAYERS = {"full_attention", "sliding_attention"}
"""Kinds of layers in which a token sees what a mask says."""
_MOST_COPIES = 2
"""Continuations have rows of their own as long as these have at most so many times the tokens that there are."""


@dataclass
class Blocks:
    """Which tokens of R rows of L tokens attend to which. G groups of up to Q tokens, each before S tokens.

    Tokens are numbered row by row, from 0 to R x L - 1.
    """

    prompt_length: int
    """The longest prompt's. The first so many tokens of each row attend causally."""
    longest: int
    """Tokens in the longest prompt with one of its continuations."""
    queries: Tensor
    """(G, Q) int64: the tokens of a group, the last one repeated where it has fewer."""
    keys: Tensor | None
    """(G, S) int64: the tokens that a group attends to; None where G is R, and each group attends to its row."""
    mask: Tensor
    """(G or 1, 1, Q, S) bool: which of them."""
    places: Tensor
    """(R, L) int64: where a token's result is, in those of the R x `prompt_length` and of the G x Q tokens, one behind
    the other. Any, where a token is padding."""

    def to(self, device: torch.device) -> "Blocks":
        """Return the blocks on another device."""
        moved: Any = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **moved)


def blocks_of(prompts: Sequence[int], rests: Sequence[Sequence[int]]) -> Blocks:
    """Describe who attends to whom in rows that hold a prompt and its continuations one after the other.

    Args:
        prompts: The lengths in tokens of R prompts, none 0.
        rests: The lengths of the continuations of each, none 0.
    """
    length = max(prompt + sum(row) for prompt, row in zip(prompts, rests, strict=True))
    apart = [
        (r, start, n) for r, row in enumerate(rests) for start, n in zip(_starts(prompts[r], row), row, strict=True)
    ]
    longest = max(prompts[r] + n for r, _, n in apart)
    copies = len(apart) * (max(prompts) + max(n for *_, n in apart))
    in_rows = copies <= _MOST_COPIES * len(prompts) * length
    groups = apart if in_rows else [(r, prompts[r], sum(row)) for r, row in enumerate(rests)]

    row, start, size = torch.tensor(groups).unbind(1)
    column = torch.arange(int(size.max()))
    queries = row[:, None] * length + start[:, None] + column.minimum(size[:, None] - 1)
    if in_rows:
        keys, mask = _behind_prompts(torch.tensor(prompts)[row], row * length, queries)
    else:
        keys, mask = None, _against_rows(prompts, rests, queries - row[:, None] * length, length)

    of_prompts = torch.arange(len(prompts) * max(prompts)).view(len(prompts), -1)
    places = of_prompts[:, torch.arange(length).clamp(max=max(prompts) - 1)]
    results = of_prompts.numel() + torch.arange(queries.numel()).view_as(queries)
    real = column < size[:, None]
    places = places.flatten().index_put((queries[real],), results[real]).view(-1, length)
    return Blocks(max(prompts), longest, queries, keys, mask, places)


def _starts(prompt: int, rests: Sequence[int]) -> list[int]:
    return list(accumulate(rests[:-1], initial=prompt))


def _behind_prompts(prompts: Tensor, rows: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
    """The keys of continuations in rows of their own, the prompt's and then theirs, and the mask.

    Args:
        prompts: (G,) lengths of the prompts; all end in one column.
        rows: (G,) the first token of each one's row.
        queries: (G, Q).
    """
    longest = int(prompts.max())
    columns = torch.arange(longest) - longest + prompts[:, None]
    keys = torch.cat([rows[:, None] + columns.clamp(min=0), queries], dim=1)
    seen = (columns if len(prompts.unique()) > 1 else columns[:1]) >= 0
    own = torch.ones(queries.shape[1], queries.shape[1], dtype=torch.bool).tril()
    mask = torch.cat([seen[:, None].expand(-1, len(own), -1), own.expand(len(seen), -1, -1)], dim=2)
    return keys, mask[:, None]


def _against_rows(prompts: Sequence[int], rests: Sequence[Sequence[int]], columns: Tensor, length: int) -> Tensor:
    """The mask of all continuations of each row against the row; `columns`, (R, Q), is where in it they are."""
    place = torch.arange(length)
    # 0 is the prompt, c + 1 continuation c.
    segments = torch.stack(
        [
            torch.bucketize(place, torch.tensor([*_starts(*both), length]), right=True)
            for both in zip(prompts, rests, strict=True)
        ]
    )
    same = segments[:, None, :] == segments.gather(1, columns)[:, :, None]
    return ((place <= columns[:, :, None]) & (same | (segments == 0)[:, None, :]))[:, None]


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    blocks: Blocks | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend in blocks where they are given, else as `sdpa`; arguments as transformers hands them to any attention.

    Args:
        module: The attention's layer.
        query: (R, heads, L, width).
        key: (R, key heads, L, width).
        value: (R, key heads, L, width).
        attention_mask: What may be seen; without meaning where blocks are given.
        blocks: Which tokens attend to which.
        kwargs: Scaling, dropout and others of `sdpa`.

    Returns:
        (R, L, heads, width), and None.

    Raises:
        RuntimeError: If the model lost `blocks` on the way to its attention.
    """
    if blocks is None:
        if attention_mask is not None and not attention_mask.numel():
            raise RuntimeError(
                f"{type(module).__name__} does not hand keyword arguments on to its attention; load the model with "
                "attn_implementation='eager'"
            )
        found: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
        return found
    size = blocks.prompt_length
    # Copied, so that the backward pass does not keep the whole row for the sake of its prompt.
    q, k, v = (values[:, :, :size].contiguous() for values in (query, key, value))
    prompt, _ = sdpa_attention_forward(module, q, k, v, None, **kwargs)
    query = _take(query, blocks.queries)
    if blocks.keys is not None:
        key, value = _take(key, blocks.keys), _take(value, blocks.keys)
    rest, _ = sdpa_attention_forward(module, query, key, value, blocks.mask, **kwargs)
    results = torch.cat([prompt.flatten(0, 1), rest.flatten(0, 1)])
    return results.index_select(0, blocks.places.flatten()).view(*blocks.places.shape, *results.shape[1:]), None


def _take(values: Tensor, tokens: Tensor) -> Tensor:
    """The (R, heads, L, width) values of (G, S) tokens, (G, heads, S, width)."""
    taken: Tensor = values.transpose(0, 1).flatten(1, 2).index_select(1, tokens.flatten())
    return taken.view(len(taken), *tokens.shape, -1).transpose(0, 1)


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)


def attends_in_blocks(model: Any, blocks: Blocks) -> bool:
    """Whether a model can be given `blocks`; switches it from `sdpa` to `sdpa_blocks` if so.

    It cannot with another attention, with layers of another kind or that do not hand keyword arguments on, or where
    a window is shorter than a prompt with a continuation.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    config = base.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    if config._attn_implementation not in ("sdpa", NAME) or not base._supports_attention_backend:
        return False
    if not set(getattr(config, "layer_types", None) or ()) <= MASKED_LAYERS:
        return False
    if window is not None and getattr(config, "use_sliding_window", True) and blocks.longest > window:
        return False
    if config._attn_implementation != NAME:
        base.set_attn_implementation(NAME)
    return True
