"""Supervision's selections against every selection there is, for each policy."""

import pytest
import torch

from dro_trl import AutoregressivePolicy, PlackettLucePolicy
from dro_trl.policies.gold import gold_places, gold_sample, summed_logps
from tests.helpers.tiny_models import all_selections, tiny_model, tiny_questions, tiny_tokenizer

POLICIES = [PlackettLucePolicy(tiny_tokenizer(), 2), AutoregressivePolicy(tiny_tokenizer(), 2)]


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: type(policy).__name__)
def test_the_probability_is_that_of_all_selections_that_hold_the_gold_passages_first(policy):
    """Two golds: both orders of them, of the 20 selections. One: the four that begin with it. And so the gradients."""
    model, rows = tiny_model("llama", tiny_tokenizer()), tiny_questions(5, 5, 5)
    rows[1]["gold_ids"] = ["1-4", "1-2"]
    inputs, every = policy.encode(rows), all_selections(5, 2)
    logps = policy.logps(model, inputs, every.expand(3, -1, -1)).logps
    wanted = [every[:, 0] == 0, torch.isin(every, torch.tensor([2, 4])).all(-1), every[:, 0] == 2]
    assert [int(held.sum()) for held in wanted] == [4, 2, 4]
    expected = torch.stack([row[held].logsumexp(-1) for row, held in zip(logps, wanted, strict=True)])
    sample = gold_sample(policy, model, rows, inputs)
    torch.testing.assert_close(sample.logps[:, 0], expected, atol=1e-5, rtol=1e-5)
    assert sample.selections[1].tolist() == [[2, 4]]
    assert [z[0][0] for z in sample.selections.tolist()] == [0, 2, 2]
    parameters = list(model.parameters())
    found = torch.autograd.grad(sample.logps.sum(), parameters, allow_unused=True)
    exact = torch.autograd.grad(expected.sum(), parameters, allow_unused=True)
    assert max(gradient.abs().max() for gradient in exact if gradient is not None) > 0.01
    for ours, theirs in zip(found, exact, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-3)


def test_summed_probabilities_worked_by_hand():
    """Flat scores of three passages: {0, 1} in any order has 2 (1/3 1/2) = 1/3, and beginning with 2 has 1/3."""
    policy, model, rows = POLICIES[0], tiny_model("llama", tiny_tokenizer()), tiny_questions(3, 3)
    torch.nn.init.zeros_(model.lm_head.weight)
    found = summed_logps(policy, model, rows, [[[0, 1], [1, 0]], [[2]]], torch.device("cpu"))
    torch.testing.assert_close(found.logps.exp(), torch.full((2, 1), 1 / 3))


def test_gold_passages_come_in_the_retrievers_order():
    (row,) = tiny_questions(4)
    row["gold_ids"] = ["0-0", "0-3", "0-2", "elsewhere"]
    row["candidates"].reverse()
    assert [row["candidates"][place]["id"] for place in gold_places(row, 2)] == ["0-0", "0-2"]
    assert gold_places({**row, "gold_ids": None}, 2) == []
