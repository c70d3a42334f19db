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

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

PADDING = -1
"""Segment of a padding token; the prompt is segment 0, continuation c is segment c + 1."""

NAME = "sdpa_blocks"
"""The attention implementation's name: `sdpa`, unless a call is given `blocks`."""
TAKE_A_MASK = ("sdpa", NAME, "eager")
MASKED_LAYERS = {"full_attention", "sliding_attention"}
"""Kinds of layers in which a token sees what a mask says."""
_MOST_COPIES = 2
"""Continuations have rows of their own as long as these have at most so many times the tokens that there are."""


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
    prompts: Tensor
    """(R, P) int64: the tokens of each prompt, the last one repeated where it has fewer."""
    queries: Tensor | None
    """(G, Q) int64: the tokens of a group, likewise; None where there are no groups."""
    keys: Tensor | None
    """(G, S) int64: the tokens that a group attends to."""
    mask: Tensor | None
    """(G or 1, 1, Q, S) bool: which of them a query sees."""
    places: Tensor
    """(T,) int64: where a token's result is, in those of the R x P and of the G x Q tokens, one behind the other."""

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
    lengths = [prompt + sum(row) for prompt, row in zip(prompts, rests, strict=True)]
    starts = list(accumulate(lengths[:-1], initial=0))
    longest = max(prompt + max(row) for prompt, row in zip(prompts, rests, strict=True))
    single = [len(row) == 1 for row in rests]
    heads = [length if alone else prompt for length, alone, prompt in zip(lengths, single, prompts, strict=True)]
    found = [_spans(torch.tensor(starts), torch.tensor(heads))]
    keys = mask = None
    several = [r for r, alone in enumerate(single) if not alone]
    if several:
        queries, keys, mask = _groups(several, starts, heads, rests)
        found.append(queries)
    places, offset = torch.zeros(sum(lengths), dtype=torch.int64), 0
    for tokens, real in found:
        places[tokens[real]] = offset + torch.arange(tokens.numel()).view_as(tokens)[real]
        offset += tokens.numel()
    texts = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    columns = torch.arange(len(texts)) - torch.tensor(starts)[texts]
    return Blocks(texts, columns, longest, found[0][0], found[1][0] if several else None, keys, mask, places)


def _spans(starts: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
    """The tokens of G spans, (G, largest size), the last one repeated, and which are no repetition."""
    column = torch.arange(int(sizes.max()))
    return starts[:, None] + column.minimum(sizes[:, None] - 1), column < sizes[:, None]


def _groups(
    several: Sequence[int], starts: Sequence[int], heads: Sequence[int], rests: Sequence[Sequence[int]]
) -> tuple[tuple[Tensor, Tensor], Tensor, Tensor]:
    """The queries of the texts in `several`, and which are no repetition, their keys and their mask."""
    apart = [
        (r, starts[r] + at, n)
        for r in several
        for at, n in zip(accumulate(rests[r], initial=heads[r]), rests[r], strict=False)
    ]
    # Rows of their own hold a copy of the prompt's keys for each continuation: 20 passages behind 30 tokens are few
    # copies and no hidden pairs, 8 selections behind 2,000 tokens would be eight times the keys. There all
    # continuations of a text attend together, and the mask hides from each what is another's.
    copies = len(apart) * (max(heads[r] for r in several) + max(n for *_, n in apart))
    if copies <= _MOST_COPIES * sum(heads[r] + sum(rests[r]) for r in several):
        text, start, size = torch.tensor(apart).unbind(1)
        queries, real = _spans(start, size)
        return (queries, real), *_behind_prompts(torch.tensor(heads)[text], torch.tensor(starts)[text], queries)
    first, head = (torch.tensor([values[r] for r in several]) for values in (starts, heads))
    size = torch.tensor([sum(rests[r]) for r in several])
    queries, real = _spans(first + head, size)
    keys, _ = _spans(first, head + size)
    mask = _against_texts([heads[r] for r in several], [rests[r] for r in several], queries.shape[1], keys.shape[1])
    return (queries, real), keys, mask


def _behind_prompts(prompts: Tensor, starts: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
    """The keys of continuations in rows of their own, the prompt's and then theirs, and the mask.

    Args:
        prompts: (G,) lengths of the prompts; all end in one column.
        starts: (G,) the first token of each one's text.
        queries: (G, Q).
    """
    longest = int(prompts.max())
    columns = torch.arange(longest) - longest + prompts[:, None]
    keys = torch.cat([starts[:, None] + columns.clamp(min=0), queries], dim=1)
    seen = (columns if len(prompts.unique()) > 1 else columns[:1]) >= 0
    own = torch.ones(queries.shape[1], queries.shape[1], dtype=torch.bool).tril()
    mask = torch.cat([seen[:, None].expand(-1, len(own), -1), own.expand(len(seen), -1, -1)], dim=2)
    return keys, mask[:, None]


def _against_texts(prompts: Sequence[int], rests: Sequence[Sequence[int]], num_queries: int, num_keys: int) -> Tensor:
    """The mask of all continuations of a text against that text.

    Args:
        prompts: The lengths of the prompts of G texts.
        rests: The lengths of the continuations of each.
        num_queries: Q, of the longest; what a shorter one repeats sees the prompt, so that no row is empty.
        num_keys: S, of the longest text; what a shorter one repeats is seen by none.
    """
    mask = torch.zeros(len(prompts), 1, num_queries, num_keys, dtype=torch.bool)
    longest = max(max(row) for row in rests)
    causal = torch.ones(longest, longest, dtype=torch.bool).tril()
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
    # The prompts' mask is None: each is plainly causal, and what fills a row up comes last, where nothing sees it.
    parts = []
    for queries, keys, mask in ((blocks.prompts, blocks.prompts, None), (blocks.queries, blocks.keys, blocks.mask)):
        if queries is not None and keys is not None:
            q, k, v = _take(query, queries), _take(key, keys), _take(value, keys)
            parts.append(sdpa_attention_forward(module, q, k, v, mask, **kwargs)[0])
    results = torch.cat([part.flatten(0, 1) for part in parts])
    return results.index_select(0, blocks.places)[None], None


def _take(values: Tensor, tokens: Tensor) -> Tensor:
    """The (1, heads, T, width) values of (G, S) tokens, (G, heads, S, width)."""
    taken: Tensor = values[0].index_select(1, tokens.flatten())
    return taken.view(len(taken), *tokens.shape, -1).transpose(0, 1)


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
