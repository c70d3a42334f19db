"""Attention for texts in one row, without padding and without most of the pairs that may not see each other.

A text is a prompt with its continuations. With padding to the longest text, all that is not attention works on padding
too; with a mask over a whole row, attention multiplies every pair of tokens and then hides most of them: with twenty
passages behind a short prompt, 34 of 35. Here the layers see one row of all tokens. In attention, prompts are put side
by side and attend as any text does; continuations go into rows of their own behind the prompt's keys, which are not
computed again, or, where copies of a long prompt's keys would cost more than they save, attend to their text together.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from dro_trl.lm.group_attention import attend_by_products, attends_by_products

Array = NDArray[Any]

PADDING = -1
"""Segment of a padding token; the prompt is segment 0, continuation c is segment c + 1."""

NAME = "sdpa_blocks"
"""The attention implementation's name: `sdpa`, unless a call is given `blocks`."""
TAKE_A_MASK = ("sdpa", NAME, "eager")
MASKED_LAYERS = {"full_attention", "sliding_attention"}
"""Kinds of layers in which a token sees what a mask says."""
_MOST_COPIES = 3
"""Continuations have rows of their own as long as these have at most so many times the keys that there are."""
_PAIRS_A_KEY = 16
"""Pairs of tokens that attend in about the time in which a key is copied; measured on a CPU, heads of 64 to 256."""


@dataclass
class Blocks:
    """Which tokens attend to which, of R texts in one row of T tokens, numbered from 0 to T - 1.

    Two or more continuations make G groups of up to Q tokens, each of which attends to up to S tokens. A single one is
    a part of its prompt.
    """

    texts: Tensor
    """(T,) int64: the text that a token is of."""
    columns: Tensor
    """(T,) int64: how many tokens of its text are before it."""
    longest: int
    """Tokens in the longest prompt with one of its continuations."""
    prompts: Tensor | None
    """(R, P) int64: the tokens of each prompt, the last one repeated where it has fewer; None where they were read
    before, and what is read now are groups behind them."""
    queries: Tensor | None
    """(G, Q) int64: the tokens of a group, likewise; None where there are no groups."""
    keys: Tensor | None
    """(G, S) int64: the tokens that a group attends to."""
    mask: Tensor | None
    """(G or 1, 1, Q, S) bool: which of them a query sees."""
    places: Tensor
    """(T,) int64: where a token's result is, in those of the R x P and of the G x Q tokens, one behind the other."""
    asking: Tensor
    """(R x P + G x Q,) int64: the prompts' tokens and the queries, which every layer takes out of its row at once."""
    asked: Tensor
    """(R x P + G x S,) int64: the prompts' tokens and the keys, likewise."""

    def to(self, device: torch.device) -> "Blocks":
        """Return the blocks on another device."""
        moved: Any = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **moved)


def blocks_of(prompts: Sequence[int], rests: Sequence[Sequence[int]]) -> Blocks:
    """Describe who attends to whom in texts that hold a prompt and its continuations one after the other.

    Args:
        prompts: The lengths in tokens of R prompts, none 0.
        rests: The lengths of the continuations of each, none 0.
    """
    # The texts "P P P a a b" and "Q Q c" are the tokens 0 to 5 and 6 to 8 of a row. Then
    #   prompts  [[0 1 2], [6 7 8]]            a single continuation, c, is a part of its prompt
    #   queries  [[3 4], [5 5]]                a and b; the last token fills up, and its result is not used
    #   keys     [[0 1 2 3 4], [0 1 2 5 5]]    of each the prompt's, which are not computed again, and its own
    #   places   [0 1 2 6 7 8 3 4 5]           among the 6 results of the prompts and the 4 behind them
    # Worked out by numpy: a step's thousand small operations would take torch as long as large ones.
    lengths = [prompt + sum(row) for prompt, row in zip(prompts, rests, strict=True)]
    starts = list(accumulate(lengths[:-1], initial=0))
    heads = _heads(prompts, rests)
    found = [_spans(np.array(starts), np.array(heads))]
    keys = mask = None
    several = [r for r, row in enumerate(rests) if len(row) > 1]
    if several:
        queries, keys, mask = _groups(several, starts, heads, rests)
        found.append(queries)
    return Blocks(
        texts=torch.from_numpy(np.repeat(np.arange(len(lengths)), lengths)),
        columns=torch.from_numpy(np.concatenate([np.arange(length) for length in lengths])),
        longest=max(prompt + max(row) for prompt, row in zip(prompts, rests, strict=True)),
        prompts=torch.from_numpy(found[0][0]),
        queries=torch.from_numpy(found[1][0]) if several else None,
        keys=None if keys is None else torch.from_numpy(keys),
        mask=None if mask is None else torch.from_numpy(mask),
        places=torch.from_numpy(_places(found, sum(lengths))),
        asking=torch.from_numpy(np.concatenate([tokens.ravel() for tokens, _ in found])),
        asked=torch.from_numpy(np.concatenate([part.ravel() for part in (found[0][0], keys) if part is not None])),
    )


def side_by_side(prompts: Sequence[int], rests: Sequence[Sequence[int]]) -> int:
    """Return how many tokens attention works on, what fills up included; arguments as in `blocks_of`."""
    heads = _heads(prompts, rests)
    several = [r for r, row in enumerate(rests) if len(row) > 1]
    found = len(heads) * max(heads)
    if several and _in_own_rows(several, heads, rests):
        found += sum(len(rests[r]) for r in several) * max(max(rests[r]) for r in several)
    elif several:
        found += len(several) * max(sum(rests[r]) for r in several)
    return found


def _heads(prompts: Sequence[int], rests: Sequence[Sequence[int]]) -> list[int]:
    """The tokens of each text that attend as any text does: its prompt, with a single continuation."""
    return [prompt + (row[0] if len(row) == 1 else 0) for prompt, row in zip(prompts, rests, strict=True)]


def _places(found: Sequence[tuple[Array, Array]], num_tokens: int) -> Array:
    """Where each token's result is among those of all parts, from the parts' tokens and which are no repetition."""
    places, offset = np.zeros(num_tokens, dtype=np.int64), 0
    for tokens, real in found:
        places[tokens[real]] = offset + np.arange(tokens.size).reshape(tokens.shape)[real]
        offset += tokens.size
    return places


def _spans(starts: Array, sizes: Array) -> tuple[Array, Array]:
    """The tokens of G spans, (G, largest size), the last one repeated, and which are no repetition."""
    column = np.arange(sizes.max())
    return starts[:, None] + np.minimum(column, sizes[:, None] - 1), column < sizes[:, None]


def _in_own_rows(several: Sequence[int], heads: Sequence[int], rests: Sequence[Sequence[int]]) -> bool:
    """Whether continuations have rows of their own, and do not attend to their text together."""
    # Rows of their own hold a copy of the prompt's keys for each continuation: 20 passages behind 30 tokens are few
    # copies and no hidden pairs, 8 selections behind 2,000 tokens would be eight times the keys. There all
    # continuations of a text attend together, and the mask hides from each what is another's.
    head, rest = max(heads[r] for r in several), max(max(rests[r]) for r in several)
    keys = sum(len(rests[r]) for r in several) * (head + rest)
    texts = [heads[r] + sum(rests[r]) for r in several]
    together = len(texts) * max(texts)
    queries = max(sum(rests[r]) for r in several)
    if keys > _MOST_COPIES * sum(texts):
        return False
    return keys * (_PAIRS_A_KEY + rest) < together * (_PAIRS_A_KEY + queries)


def _groups(
    several: Sequence[int], starts: Sequence[int], heads: Sequence[int], rests: Sequence[Sequence[int]]
) -> tuple[tuple[Array, Array], Array, Array]:
    """The queries of the texts in `several`, and which are no repetition, their keys and their mask."""
    if _in_own_rows(several, heads, rests):
        apart = [
            (r, starts[r] + at, n)
            for r in several
            for at, n in zip(accumulate(rests[r], initial=heads[r]), rests[r], strict=False)
        ]
        text, start, size = np.array(apart).T
        queries, real = _spans(start, size)
        return (queries, real), *_behind_prompts(np.array(heads)[text], np.array(starts)[text], queries)
    first, head = (np.array([values[r] for r in several]) for values in (starts, heads))
    size = np.array([sum(rests[r]) for r in several])
    queries, real = _spans(first + head, size)
    keys, _ = _spans(first, head + size)
    mask = _against_texts([heads[r] for r in several], [rests[r] for r in several], queries.shape[1], keys.shape[1])
    return (queries, real), keys, mask


def _behind_prompts(prompts: Array, starts: Array, queries: Array) -> tuple[Array, Array]:
    """The keys of continuations in rows of their own, the prompt's and then theirs, and the mask.

    Args:
        prompts: (G,) lengths of the prompts; all end in one column.
        starts: (G,) the first token of each one's text.
        queries: (G, Q).
    """
    longest = int(prompts.max())
    columns = np.arange(longest) - longest + prompts[:, None]
    keys = np.concatenate([starts[:, None] + columns.clip(min=0), queries], axis=1)
    seen = (columns if prompts.min() < longest else columns[:1]) >= 0
    own = np.tri(queries.shape[1], dtype=bool)
    mask = np.concatenate(
        [np.repeat(seen[:, None], len(own), axis=1), np.repeat(own[None], len(seen), axis=0)], axis=2
    )
    return keys, mask[:, None]


def _against_texts(prompts: Sequence[int], rests: Sequence[Sequence[int]], num_queries: int, num_keys: int) -> Array:
    """The mask of all continuations of a text against that text.

    Args:
        prompts: The lengths of the prompts of G texts.
        rests: The lengths of the continuations of each.
        num_queries: Q, of the longest; what a shorter one repeats sees the prompt, so that no row is empty.
        num_keys: S, of the longest text; what a shorter one repeats is seen by none.
    """
    mask = np.zeros((len(prompts), 1, num_queries, num_keys), dtype=bool)
    causal = np.tri(max(max(row) for row in rests), dtype=bool)
    for seen, prompt, row in zip(mask[:, 0], prompts, rests, strict=True):
        seen[:, :prompt] = True
        for at, n in zip(accumulate(row, initial=0), row, strict=False):
            seen[at : at + n, prompt + at : prompt + at + n] = causal[:n, :n]
    return mask


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
        query: (1, heads, T, width), or any number of rows where no blocks are given.
        key: (1, key heads, T, width).
        value: (1, key heads, T, width).
        attention_mask: What may be seen; empty where blocks are given.
        blocks: Which tokens attend to which.
        kwargs: Scaling, dropout and others of `sdpa`.

    Returns:
        (1, T, heads, width), and None.

    Raises:
        RuntimeError: If the model lost `blocks` on the way to its attention, or made a mask of its own.
    """
    is_empty = attention_mask is not None and not attention_mask.numel()
    if is_empty != (blocks is not None):
        raise RuntimeError(
            f"{type(module).__name__} does not hand the mask and keyword arguments on to its attention as they are; "
            "load the model with attn_implementation='eager'"
        )
    if blocks is None:
        found: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
        return found
    # Copies of the parts, so that the backward pass does not keep the whole row for their sake.
    shapes = [tokens.shape for tokens in (blocks.prompts, blocks.queries) if tokens is not None]
    sizes = [tokens.shape for tokens in (blocks.prompts, blocks.keys) if tokens is not None]
    # The prompts' mask is None: each is plainly causal, and what fills a row up comes last, where nothing sees it.
    masks = [None] * (blocks.prompts is not None) + [blocks.mask] * (blocks.queries is not None)
    taken = (_take(query, blocks.asking, shapes), _take(key, blocks.asked, sizes), _take(value, blocks.asked, sizes))
    parts = [
        _attend_part(module, q, k, v, mask, **kwargs).flatten(0, 1)
        for q, k, v, mask in zip(*taken, masks, strict=True)
    ]
    results = parts[0] if len(parts) == 1 else torch.cat(parts)
    return results.index_select(0, blocks.places)[None], None


def _attend_part(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **kwargs: Any
) -> Tensor:
    """(G, heads, Q, width) to (G, Q, heads, width)."""
    if attends_by_products(query, key, mask, **kwargs):
        return attend_by_products(query, key, value, mask, kwargs.get("scaling"))
    found: Tensor = sdpa_attention_forward(module, query, key, value, mask, **kwargs)[0]
    return found


def _take(values: Tensor, tokens: Tensor, shapes: Sequence[torch.Size]) -> list[Tensor]:
    """The (1, heads, T, width) values of the tokens of parts of (G, S) tokens each, (G, heads, S, width) of each."""
    taken = values.squeeze(0).index_select(1, tokens)
    parts = taken.split([shape.numel() for shape in shapes], dim=1) if len(shapes) > 1 else [taken]
    return [part.unflatten(1, shape).transpose(0, 1) for part, shape in zip(parts, shapes, strict=True)]


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)


def takes_block_mask(model: nn.Module) -> bool:
    """Whether a token of the model sees what a mask says, and nothing else."""
    config: Any = model.config.get_text_config()  # type: ignore[union-attr, operator]
    layer_types = set(getattr(config, "layer_types", None) or ())
    return config._attn_implementation in TAKE_A_MASK and layer_types <= MASKED_LAYERS


def use_blocks(model: Any, longest: int) -> bool:
    """Switch a model from `sdpa` to `sdpa_blocks`, and return whether it can be given `blocks`.

    It cannot with `eager` attention, where it takes no mask, where its layers do not hand keyword arguments on, where
    a window is shorter than the longest prompt with one continuation, or with adapters that change the row itself.

    Args:
        model: A causal LM, or a PEFT model of one.
        longest: Tokens in the longest prompt with one continuation.
    """
    adapter = getattr(model, "active_peft_config", None)
    if adapter is not None and (adapter.is_prompt_learning or getattr(adapter, "alora_invocation_tokens", None)):
        return False
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    config = base.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    if not takes_block_mask(base) or config._attn_implementation == "eager" or not base._supports_attention_backend:
        return False
    if window is not None and getattr(config, "use_sliding_window", True) and longest > window:
        return False
    if config._attn_implementation != NAME:
        base.set_attn_implementation(NAME)
    switched: bool = config._attn_implementation == NAME  # Custom code may refuse.
    return switched


def attention_mask(
    model: nn.Module, query_segments: Tensor, query_positions: Tensor, key_segments: Tensor, key_positions: Tensor
) -> Tensor | dict[str, Tensor]:
    """Build the block mask in the form that `model` takes: one tensor, or one for each of its attention types.

    Args:
        model: A causal LM of transformers with `sdpa` or `eager` attention.
        query_segments: (B, Q) int64 segments of the tokens that are being computed.
        query_positions: (B, Q) int64 positions of those.
        key_segments: (B, S) int64 segments of the tokens that they may attend to (cached ones first).
        key_positions: (B, S) int64 positions of those.

    Raises:
        ValueError: If the model's attention cannot take a block mask.
    """
    config: Any = model.config.get_text_config()  # type: ignore[union-attr, operator]
    implementation = config._attn_implementation
    if implementation not in TAKE_A_MASK:
        raise ValueError(
            f"attn_implementation={implementation!r} of {config.model_type} takes no block mask, which sharing one "
            "prompt between several continuations needs; load the model with attn_implementation='sdpa', or use the "
            "Plackett-Luce policy with item_score='passage_end' and one answer alias, which need no mask"
        )
    distance = query_positions[:, :, None] - key_positions[:, None, :]
    same = (key_segments[:, None, :] == 0) | (key_segments[:, None, :] == query_segments[:, :, None])
    full = (same & (distance >= 0) & (key_segments[:, None, :] != PADDING)) | (
        # A padding token sees padding, so that no row of the softmax is empty.
        (query_segments[:, :, None] == PADDING) & (key_segments[:, None, :] == PADDING)
    )
    layer_types = set(getattr(config, "layer_types", None) or ())
    if unknown := layer_types - MASKED_LAYERS:
        raise ValueError(f"{config.model_type} has layers of type {sorted(unknown)}, which take no block mask")
    window = getattr(config, "sliding_window", None)
    if layer_types == {"full_attention"} or window is None:
        return _in_form(full, implementation, model)
    windowed = _in_form(full & (distance < window), implementation, model)
    if not layer_types:
        return windowed if getattr(config, "use_sliding_window", True) else _in_form(full, implementation, model)
    return {"full_attention": _in_form(full, implementation, model), "sliding_attention": windowed}


def _in_form(visible: Tensor, implementation: str, model: nn.Module) -> Tensor:
    visible = visible[:, None]
    if implementation != "eager":
        return visible
    dtype = next(model.parameters()).dtype
    return torch.zeros_like(visible, dtype=dtype).masked_fill(~visible, torch.finfo(dtype).min)
