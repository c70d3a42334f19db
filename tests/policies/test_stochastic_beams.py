"""Draws without replacement and their weights, against all sets that could have been drawn."""

import itertools
import math

import pytest
import torch

from dro_trl.policies.plackett_luce import PlackettLucePolicy, plackett_luce_logps, plackett_luce_step
from dro_trl.policies.stochastic_beams import draw_distinct, given_maximum, set_weights, stochastic_beams
from tests.helpers.tiny_models import (
    all_selections,
    random_generators,
    tiny_model,
    tiny_questions,
    tiny_tokenizer,
)

LOGITS = torch.randn(6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
VALUES = torch.tensor([3.0, -1.0, 0.5, 2.0, -4.0, 1.0], dtype=torch.float64)


def in_order(probs, drawn):
    """The probability of drawing these one after another from what `probs` leave, not normalised."""
    found, left = 1.0, {i: float(p) for i, p in enumerate(probs)}
    for i in drawn:
        found /= sum(left.values())  # Added up anew: what is left may be too little for a difference.
        found *= left.pop(i)
    return found


def set_probability(probs, drawn):
    return sum(in_order(probs, order) for order in itertools.permutations(drawn))


def every_set(spread, num):
    """Each set of `num` of six, with its probability, log R and the weights of the baselines."""
    probs = (spread * LOGITS).softmax(-1)
    for drawn in map(list, itertools.combinations(range(6), num)):
        rest = probs[[i for i in range(6) if i not in drawn]].sum()
        log_factors, leave_one_out = set_weights(probs[drawn].log()[None], rest.log()[None])
        yield drawn, set_probability(probs, drawn), log_factors[0], leave_one_out[0]


@pytest.mark.parametrize("num", [2, 3, 5, 6])
@pytest.mark.parametrize("spread", [0.0, 1.0, 8.0])
def test_the_weights_of_all_sets(num, spread):
    """R is the ratio of the enumerated probabilities, weights sum to 1, and what they estimate is without bias.

    So are the score-function gradient with its baselines, that of any other policy from these draws, and the variance.
    """
    probs, other = (spread * LOGITS).softmax(-1), (-LOGITS).softmax(-1)
    mean, variance = probs @ VALUES, probs @ VALUES.square() - (probs @ VALUES) ** 2
    found, scores = {"mean": 0.0, "other": 0.0, "variance": 0.0}, torch.eye(6, dtype=torch.float64)
    gradients = {"own": torch.zeros(6, dtype=torch.float64), "other": torch.zeros(6, dtype=torch.float64)}
    for drawn, probability, log_factors, leave_one_out in every_set(spread, num):
        for i, factor in zip(drawn, log_factors.exp().tolist(), strict=True):
            without = [0.0 if j == i else p for j, p in enumerate(probs.tolist())]
            left = set_probability(without, [j for j in drawn if j != i])
            assert factor == pytest.approx(left / probability, rel=1e-8)
        weights, values = (probs[drawn].log() + log_factors).exp(), VALUES[drawn]
        torch.testing.assert_close(weights.sum(), torch.tensor(1.0, dtype=torch.float64))
        torch.testing.assert_close(leave_one_out.sum(-1), torch.ones(num, dtype=torch.float64))
        found["mean"] += probability * weights @ values
        found["other"] += probability * (other[drawn] * log_factors.exp()) @ values
        pairs = (values[:, None] - values).square()
        found["variance"] += probability * 0.5 * weights @ (leave_one_out * pairs).sum(-1)
        advantages = values - leave_one_out @ values
        gradients["own"] += probability * (weights * advantages) @ (scores[drawn] - probs)
        gradients["other"] += probability * (other[drawn] * log_factors.exp() * advantages) @ (scores[drawn] - other)
    assert found["mean"] == pytest.approx(float(mean))
    assert found["other"] == pytest.approx(float(other @ VALUES))
    assert found["variance"] == pytest.approx(float(variance), rel=1e-6)
    torch.testing.assert_close(gradients["own"], probs * (VALUES - mean))
    torch.testing.assert_close(gradients["other"], other * (VALUES - other @ VALUES))


@pytest.mark.parametrize("num", [2, 16, 64])
def test_weights_of_flat_and_of_certain_policies(num):
    """All alike: each of M weighs 1/M. One near certain, the rest 1e-20 and less: it weighs 1, and nothing is NaN."""
    total = 100_000
    log_factors, leave_one_out = set_weights(
        torch.full((1, num), -math.log(total), dtype=torch.float64),
        torch.tensor([math.log1p(-num / total)], dtype=torch.float64),
    )
    torch.testing.assert_close(log_factors.exp() / total, torch.full((1, num), 1 / num, dtype=torch.float64))
    torch.testing.assert_close(leave_one_out.sum(-1), torch.ones(1, num, dtype=torch.float64))
    sharp = torch.tensor([[0.0, *(-46.0 - 10.0 * m for m in range(num - 1))]], dtype=torch.float64)
    log_factors, leave_one_out = set_weights(sharp, torch.tensor([-700.0], dtype=torch.float64))
    assert log_factors.isfinite().all()
    assert (sharp + log_factors).exp()[0, 0].item() == pytest.approx(1.0)
    torch.testing.assert_close(leave_one_out.sum(-1), torch.ones(1, num, dtype=torch.float64))


def test_given_maximum():
    """The largest becomes the maximum that is asked for, the order stays, and what is not there stays so."""
    values = torch.tensor([[0.3, -math.inf, 2.0, -50.0, 1.999]], dtype=torch.float64)
    for maximum in (-3.0, 5.0, 40.0):
        found = given_maximum(values, torch.tensor([maximum], dtype=torch.float64))
        assert found[0, 2].item() == pytest.approx(maximum)
        assert found[0, 1].item() == -math.inf
        assert found.argsort(-1).tolist() == values.argsort(-1).tolist()
        assert not found.isnan().any()


def conditional_step(num_items):
    """A policy whose next scores depend on what is chosen: a table by the last choice; row 0 of it comes first."""
    table = torch.randn(num_items + 1, num_items, generator=torch.Generator().manual_seed(5), dtype=torch.float64)

    def step(prefixes):
        last = prefixes[..., -1] + 1 if prefixes.shape[-1] else torch.zeros(prefixes.shape[:2], dtype=torch.int64)
        return table[last].scatter(-1, prefixes, -math.inf).log_softmax(-1)

    return step


def conditional_logps(step, selections):
    logps = torch.zeros(len(selections), dtype=torch.float64)
    for k in range(selections.shape[-1]):
        logps += step(selections[None, :, :k])[0].gather(-1, selections[:, k : k + 1])[:, 0]
    return logps


@pytest.mark.parametrize("conditional", [True, False])
def test_beams_are_draws_without_replacement(conditional):
    """Twelve selections (N = 4, K = 2), three drawn: which ones, in which order, as 1,320 enumerated probabilities."""
    draws, selections = 20_000, all_selections(4, 2)
    scores = torch.randn(4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    if conditional:
        step = conditional_step(4)
        logps = conditional_logps(step, selections)
    else:
        step = plackett_luce_step(scores.expand(draws, 4))
        logps = plackett_luce_logps(scores[None], selections[None])[0][0]
    assert logps.exp().sum().item() == pytest.approx(1.0)
    found, found_logps, log_rest = stochastic_beams(step, [4] * draws, 2, 3, random_generators(draws))
    drawn = (found[:, :, None] == selections).all(-1).int().argmax(-1)
    torch.testing.assert_close(found_logps, logps[drawn])
    torch.testing.assert_close(log_rest.exp(), 1 - found_logps.exp().sum(-1))
    probs = logps.exp()
    orders = list(itertools.permutations(range(12), 3))
    expected = torch.tensor([draws * in_order(probs, order) for order in orders], dtype=torch.float64)
    counts = torch.zeros(12, 12, 12, dtype=torch.float64)
    counts.index_put_(tuple(drawn.T), torch.ones(draws, dtype=torch.float64), accumulate=True)
    observed = torch.stack([counts[order] for order in orders])
    assert observed.sum() == draws
    often = expected >= 5
    pooled = [torch.cat([part[often], part[~often].sum()[None]]) for part in (observed, expected)]
    squares = ((pooled[0] - pooled[1]).square() / pooled[1]).sum()
    freedom = len(pooled[0]) - 1
    assert abs(float(squares) - freedom) < 4 * math.sqrt(2 * freedom)  # Chi-squared: mean n, variance 2 n.


def test_estimates_from_draws_are_unbiased():
    """`mean p f / q` over many draws, of N = 5, K = 2, M = 4, lies within four standard errors of the expectation."""
    draws, step, selections = 4_000, conditional_step(5), all_selections(5, 2)
    logps = conditional_logps(step, selections)
    values = torch.randn(20, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    drawn = draw_distinct(step, [5] * draws, 2, 4, random_generators(draws))
    index = (drawn.selections[:, :, None] == selections).all(-1).int().argmax(-1)
    ratios = (drawn.old_logps - drawn.behavior_logps).exp()
    torch.testing.assert_close(ratios.mean(-1), torch.ones(draws, dtype=torch.float64), atol=1e-11, rtol=0)
    found = (ratios * values[index]).mean(-1)
    assert abs(found.mean() - logps.exp() @ values) < 4 * found.std() / math.sqrt(draws)
    assert found.std() > 0.1


def test_few_selections_are_all_taken_and_repeated():
    """Of 2 items 2 pairs in M = 5, of 4 items 5 of 12: the one row's expectation is exact, the other's distinct."""
    scores = torch.tensor([[0.7, -0.4, -math.inf, -math.inf], [0.1, 0.2, 0.3, 0.4]], dtype=torch.float64)
    drawn = draw_distinct(plackett_luce_step(scores), [2, 4], 2, 5, random_generators(2))
    pairs = [tuple(pair) for pair in drawn.selections[0].tolist()]
    assert sorted(set(pairs)) == [(0, 1), (1, 0)]
    assert pairs == [pairs[m % 2] for m in range(5)]
    assert len({tuple(pair) for pair in drawn.selections[1].tolist()}) == 5
    weights = (drawn.old_logps - drawn.behavior_logps).exp() / 5
    first = torch.tensor([pair == (0, 1) for pair in pairs])
    assert weights[0][first].sum().item() == pytest.approx(float(torch.sigmoid(torch.tensor(1.1))))
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, dtype=torch.float64))
    torch.testing.assert_close(drawn.leave_one_out[0], weights[0].expand(5, 5))
    torch.testing.assert_close(drawn.leave_one_out.sum(-1), torch.ones(2, 5, dtype=torch.float64))


@pytest.mark.parametrize("sizes", [[3, 6], [6, 3], [4, 4, 6]])
def test_a_draw_does_not_depend_on_the_batch(sizes):
    def drawn(rows):
        policy, model = (
            PlackettLucePolicy(tiny_tokenizer(), 2, proposal="without_replacement"),
            tiny_model("llama", tiny_tokenizer()),
        )
        generators = [torch.Generator().manual_seed(len(row["candidates"])) for row in rows]
        with torch.no_grad():
            return policy.sample(model, policy.encode(rows), 8, generators, temperature=0.7)

    rows = tiny_questions(*sizes)
    together = drawn(rows)
    for b, row in enumerate(rows):
        alone = drawn([row])
        assert alone.selections[0].tolist() == together.selections[b].tolist()
        for name in ("logps", "behavior_logps", "old_logps", "leave_one_out"):
            torch.testing.assert_close(getattr(alone, name)[0], getattr(together, name)[b], atol=1e-4, rtol=1e-4)


def test_the_policy_s_sample_and_its_gradient():
    """Log-probabilities are those of `logps`, with its gradient; those of the draw are tempered, and have none."""
    policy = PlackettLucePolicy(tiny_tokenizer(), 2, proposal="without_replacement")
    model, rows = tiny_model("llama", tiny_tokenizer()), tiny_questions(4, 6)
    inputs = policy.encode(rows)
    sample = policy.sample(model, inputs, 8, random_generators(2), temperature=2.0)
    given = policy.logps(model, inputs, sample.selections)
    torch.testing.assert_close(sample.logps, given.logps)
    (sample.logps.sum() - given.logps.sum()).backward()
    assert all(p.grad is None or p.grad.abs().max() < 1e-4 for p in model.parameters())
    assert not sample.behavior_logps.requires_grad
    with torch.no_grad():
        tempered, _ = plackett_luce_logps(policy.item_scores(model, inputs) / 2, sample.selections)
    torch.testing.assert_close(sample.old_logps, tempered, atol=1e-4, rtol=0)
    assert sample.selections.shape == (2, 8, 2)
    assert all(len(set(map(tuple, row))) == 8 for row in sample.selections.tolist())


def test_one_draw_is_refused():
    with pytest.raises(ValueError, match="without_replacement' and num_selections=1.*set num_selections to 2"):
        draw_distinct(conditional_step(3), [3], 1, 1, random_generators(1))
