"""Prompts that begin alike: which of them share a row, so that what they have in common is read once."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

Tokens = Sequence[int]


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
