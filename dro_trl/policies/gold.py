"""Gold passages as selections, and what any policy makes of selections of other lengths than K."""

import itertools
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dro_trl.lm.sharding import most_forwards
from dro_trl.policies.base import SelectionLogps, SelectionPolicy, SelectionSample
from dro_trl.types import Question, Selection

MOST_IN_ANY_ORDER = 5
"""Gold passages of a question, whose orders are gone through one by one: 120."""


def gold_places(row: Question, most: int) -> Selection:
    """Return where the gold passages stand among a row's candidates, at most so many, the retriever's best first."""
    gold, passages = set(row.get("gold_ids") or ()), row["candidates"]
    places = [place for place, passage in enumerate(passages) if passage["id"] in gold]
    return sorted(places, key=lambda place: -passages[place]["score"])[:most]


def summed_logps(
    policy: SelectionPolicy,
    model: nn.Module,
    rows: Sequence[Question],
    choices: Sequence[Sequence[Selection]],
    device: torch.device,
) -> SelectionLogps:
    """Return log sum_z p_s(z|x) over the given selections of each question; a short one's is that of beginning so.

    Selections of one length are scored together, so that a policy need not know of any padding.

    Args:
        policy: Turns the model into a distribution over selections.
        model: The selector.
        rows: B questions.
        choices: For each at least one selection, all of one length.
        device: Where the model is.

    Returns:
        `logps`, (B, 1), and the entropies along the selections.
    """
    by_shape: dict[tuple[int, int], list[int]] = defaultdict(list)
    for number, selections in enumerate(choices):
        by_shape[len(selections), len(selections[0])].append(number)
    groups = list(by_shape.values())
    logps: list[Tensor] = []
    entropies: list[Tensor] = []
    # Where the model is sharded, a process with fewer lengths computes one again, for nothing.
    for turn in range(most_forwards(model, len(groups))):
        group = groups[min(turn, len(groups) - 1)]
        inputs = policy.encode([rows[number] for number in group]).to(device)
        scored = policy.logps(model, inputs, torch.tensor([choices[number] for number in group], device=device))
        counted = len(group) if turn < len(groups) else 0
        logps.append(scored.logps.logsumexp(-1)[:counted])
        entropies.append(scored.entropy[:counted])
    order = torch.tensor([number for group in groups for number in group]).argsort().to(device)
    return SelectionLogps(torch.cat(logps)[order, None], torch.cat(entropies)[order])


def gold_sample(policy: SelectionPolicy, model: nn.Module, rows: Sequence[Question], inputs: Any) -> SelectionSample:
    """Return each question's gold passages as its only selection, filled up to K with the policy's best others.

    Its log-probability is that of selecting the gold passages first, in any order.

    Args:
        policy: The policy.
        model: The selector.
        rows: B questions, each with a gold passage among its candidates.
        inputs: What the policy's `encode` made of them, where the model is.
    """
    golds = [gold_places(row, policy.num_selected) for row in rows]
    with torch.no_grad():
        best, _ = policy.best(model, inputs)
    filled = [
        list(dict.fromkeys([*gold, *others]))[: policy.num_selected]
        for gold, others in zip(golds, best.tolist(), strict=True)
    ]
    orders = [[list(order) for order in itertools.permutations(gold)] for gold in golds]
    scored = summed_logps(policy, model, rows, orders, best.device)
    selections = torch.tensor(filled, device=best.device)[:, None]
    return SelectionSample(scored.logps, scored.entropy, selections, scored.logps.detach())
