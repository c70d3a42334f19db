"""Scoring many answers in as little work, and as few forward passes, as memory allows."""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dro_trl.lm.attention import side_by_side, takes_block_mask, use_blocks
from dro_trl.lm.logps import token_logps
from dro_trl.lm.packing import pack
from dro_trl.lm.sharding import is_sharded, most_forwards

Tokens = Sequence[int]

logger = logging.getLogger(__name__)

TOKEN_COST = 8
"""What the matrices of a layer cost a token, in pairs of tokens that attention compares, over the hidden size: 4 in
Gemma 3 270M, 7 in Llama 3.2 1B, 9 to 10 in Qwen2.5."""
SHORTEST = 0.75
"""A pass ends before a row of less than this share of its longest one, a quarter or more of which would be padding."""
MOST_IN_ATTENTION = 2
"""Without padding, it ends before attention, with texts side by side, works on more than so many times its tokens."""


def common_length(prompts: Sequence[Tokens]) -> int:
    """Return with how many tokens all prompts begin alike."""
    return len(os.path.commonprefix(list(map(list, prompts))))


def group_by_prefix(
    prompts: Sequence[Tokens],
    answers: Sequence[Tokens],
    token_cost: float,
    longest: int | None = None,
    masked: bool = False,
) -> list[list[int]]:
    """Divide prompts, each with one answer behind it, into groups that share a row, at the least cost.

    In lexical order prompts with a long beginning in common are neighbours, and a group is a run of them. Its row of L
    tokens costs L x `token_cost`, and attention as many pairs as it compares block by block: P^2 / 2 for a beginning
    of P tokens, and T x (P + T) for each rest of T; or all L^2 under a mask.

    Args:
        prompts: B lists of token ids.
        answers: B lists of token ids.
        token_cost: What a token costs outside attention, in pairs of tokens that attention compares.
        longest: The most tokens in the row of a group.
        masked: Whether a row of several prompts is put under a mask as a whole.

    Returns:
        The numbers of the prompts in each group.
    """
    order = sorted(range(len(prompts)), key=lambda number: list(prompts[number]))
    lengths = [len(prompts[number]) + len(answers[number]) for number in order]
    alike = [common_length([prompts[first], prompts[second]]) for first, second in pairwise(order)]
    # Of the first prompts in order: the least cost, and where the last group starts.
    least: list[tuple[float, int]] = [(0.0, 0)]
    for end in range(1, len(order) + 1):
        choices: list[tuple[float, int]] = []
        tokens = squares = 0
        prefix = len(prompts[order[end - 1]])
        for start in reversed(range(end)):
            tokens, squares = tokens + lengths[start], squares + lengths[start] ** 2
            row, pairs = tokens, squares / 2
            if end - start > 1:
                prefix = min(prefix, alike[start])
                # A rest's T x (P + T), summed: (length - P) x length.
                row = tokens - (end - start - 1) * prefix
                pairs = row**2 if masked else prefix**2 / 2 + squares - prefix * tokens
                if longest is not None and row > longest:
                    break
            choices.append((least[start][0] + row * token_cost + pairs, start))
        least.append(min(choices))
    groups, end = [], len(order)
    while end:
        start = least[end][1]
        groups.append(order[start:end])
        end = start
    return groups


@dataclass(frozen=True)
class AnswerRow:
    """A row: a prompt, or what several prompts begin with, and all that comes behind it."""

    prompt: Tokens
    rests: Sequence[Tokens]
    scored: Sequence[Sequence[bool]]
    """For each token of each rest, whether it is an answer's."""
    answers: Sequence[tuple[int, int]]
    """For each rest, the number of its prompt and that of its answer."""

    @property
    def length(self) -> int:
        """Tokens in the row."""
        return len(self.prompt) + sum(map(len, self.rests))


def answer_rows(
    prompts: Sequence[Tokens],
    answers: Sequence[Sequence[Tokens]],
    token_cost: float | None = None,
    longest: int | None = None,
    masked: bool = False,
) -> list[AnswerRow]:
    """Put prompts and their answers into rows.

    Args:
        prompts: B lists of token ids, none empty.
        answers: B lists of lists of token ids. A prompt of several answers has a row of its own.
        token_cost: As in `group_by_prefix`; None gives each prompt a row of its own.
        longest: The most tokens in a row of several prompts.
        masked: As in `group_by_prefix`.
    """
    if token_cost is None or max(map(len, answers)) > 1:
        groups = [[number] for number in range(len(prompts))]
    else:
        groups = group_by_prefix(prompts, [first for first, *_ in answers], token_cost, longest, masked)
    rows = []
    for group in groups:
        shared = common_length([prompts[number] for number in group])
        behind = [
            (prompts[number][shared:], answer, (number, a))
            for number in group
            for a, answer in enumerate(answers[number])
        ]
        rows.append(
            AnswerRow(
                prompt=prompts[group[0]][:shared],
                rests=[[*rest, *answer] for rest, answer, _ in behind],
                scored=[[False] * len(rest) + [True] * len(answer) for rest, answer, _ in behind],
                answers=[numbers for *_, numbers in behind],
            )
        )
    return rows


class TokenBudget:
    """How many tokens a model reads in one forward pass, padding as well; fewer from when memory runs out.

    Args:
        tokens: The most; no bound where None. A prompt that is longer is read alone.
    """

    def __init__(self, tokens: int | None = None) -> None:
        self.tokens = tokens

    def answer_logps(
        self,
        model: nn.Module,
        prompts: Sequence[Tokens],
        answers: Sequence[Sequence[Tokens]],
        device: torch.device,
    ) -> tuple[Tensor, Tensor]:
        """Return the log-probability of every token of every answer, and which of them are there.

        With a budget, the activations of one pass are kept for the gradient: the last one's. Every other is made again
        in the backward pass (Chen et al., 2016, arXiv:1604.06174), which costs a second forward pass.

        Args:
            model: A causal LM.
            prompts: B lists of token ids, none empty.
            answers: B lists of up to A lists of up to T token ids, none empty.
            device: The model's.

        Returns:
            Log-probabilities in float32 nats, 0 where padded, and a bool mask, False where padded, both (B, A, T).

        Raises:
            RuntimeError: If memory runs out with one prompt in each pass, or where the model is sharded: the other
                processes wait for a pass that they make together, and could not be told to begin again.
        """
        before = self.tokens
        config: Any = model.config.get_text_config()  # type: ignore[union-attr, operator]
        token_cost = TOKEN_COST * config.hidden_size if takes_block_mask(model) else None
        longest = max(len(p) + max(map(len, aliases)) for p, aliases in zip(prompts, answers, strict=True))
        padded = not use_blocks(model, longest)

        def divided(budget: int | None) -> list[list[AnswerRow]]:
            return divide(answer_rows(prompts, answers, token_cost, budget, masked=padded), budget, padded)

        passes = divided(before)
        while True:
            try:
                logps = _logps_of_passes(model, passes, device, keep_activations=self.tokens is None)
            except RuntimeError as error:
                if not should_reduce_batch_size(error):
                    raise
                read = max(tokens_in(rows, padded) for rows in passes)
                if is_sharded(model) or len(passes) == len(divided(1)):
                    error.add_note(f"{read} tokens were read in one pass; set scoring_token_budget to fewer")
                    raise
                self.tokens = min(read, self.tokens or read) // 2
                passes = divided(self.tokens)
            else:
                break
            clear_device_cache(garbage_collection=True)  # Here the error, which held on to the pass, is gone.
        if self.tokens != before:
            logger.warning(
                f"memory ran out while the generator scored answers, and it reads {self.tokens} tokens in one pass "
                f"from now on; in training, set scoring_token_budget={self.tokens} to begin with that"
            )
        return _in_order(logps, passes, answers)


def tokens_in(rows: Sequence[AnswerRow], padded: bool) -> int:
    """Return how many tokens one pass over rows reads: of as many as the longest has, or one behind the other."""
    lengths = [row.length for row in rows]
    return len(lengths) * max(lengths) if padded else sum(lengths)


def divide(rows: Sequence[AnswerRow], budget: int | None, padded: bool) -> list[list[AnswerRow]]:
    """Return rows in passes of at most `budget` tokens each, as far as a row alone has not more.

    Where shorter rows are padded, those of one pass are of like length, and need a block mask all or none; where they
    are padded in attention alone, lengths may differ more.
    """
    passes: list[list[AnswerRow]] = []
    for row in sorted(rows, key=lambda row: (len(row.rests) > 1, row.length), reverse=True):
        together = [*passes[-1], row] if passes else [row]
        longest, read = together[0], tokens_in(together, padded)
        if padded:
            alike = row.length >= SHORTEST * longest.length and (len(row.rests) > 1) == (len(longest.rests) > 1)
        else:
            lengths = [len(each.prompt) for each in together], [[*map(len, each.rests)] for each in together]
            alike = side_by_side(*lengths) <= MOST_IN_ATTENTION * read
        if passes and alike and (budget is None or read <= budget):
            passes[-1].append(row)
        else:
            passes.append([row])
    return passes


def _logps_of_passes(
    model: nn.Module, passes: Sequence[Sequence[AnswerRow]], device: torch.device, keep_activations: bool
) -> list[Tensor]:
    """The log-probabilities of each pass, (rows, rests, tokens)."""
    # Sharded weights are gathered and let go by hooks, which a second pass that stops early would not reach.
    made_again: Any = partial(checkpoint, token_logps, use_reentrant=False, early_stop=False)
    found = []
    count = most_forwards(model, len(passes))
    for number in range(count):
        # Where the model is sharded, a process with fewer passes makes its last one again, for nothing.
        rows = passes[min(number, len(passes) - 1)]
        batch = pack([r.prompt for r in rows], [r.rests for r in rows], [r.scored for r in rows]).to(device)
        kept = keep_activations or number == count - 1 or not torch.is_grad_enabled()
        found.append((token_logps if kept else made_again)(model, batch))
    return found


def _in_order(
    logps: Sequence[Tensor], passes: Sequence[Sequence[AnswerRow]], answers: Sequence[Sequence[Tokens]]
) -> tuple[Tensor, Tensor]:
    """The log-probabilities of each prompt's answers and their mask, both (B, A, T), from those of each pass."""
    rests, tokens = (max(values.shape[dim] for values in logps) for dim in (1, 2))
    lengths = np.zeros((len(answers), max(map(len, answers))), dtype=np.int64)
    places = np.zeros_like(lengths)
    for place, row in enumerate(row for rows in passes for row in rows):
        for rest, (number, a) in enumerate(row.answers):
            places[number, a] = place * rests + rest
            lengths[number, a] = len(answers[number][a])
    # What a pass found for nothing comes last and has no place, but its backward pass has to be made as well.
    flat = torch.cat([pad_answers(values, (rests, tokens)) for values in logps]).flatten(0, 1)
    mask = torch.from_numpy(np.arange(tokens) < lengths[..., None]).to(flat.device)
    return flat[torch.from_numpy(places).to(flat.device)] * mask, mask


def pad_answers(values: Tensor, shape: tuple[int, int]) -> Tensor:
    """Pad (B, A, T) values on the right to the given A and T."""
    return nn.functional.pad(values, (0, shape[1] - values.shape[2], 0, shape[0] - values.shape[1]))
