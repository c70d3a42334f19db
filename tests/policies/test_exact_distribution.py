"""Every policy against its exact distribution, found by scoring all ordered pairs of four candidates."""

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from dro_trl.policies.autoregressive import AutoregressivePolicy
from dro_trl.policies.conditional_scores import ConditionalScoresPolicy
from dro_trl.policies.plackett_luce import PlackettLucePolicy
from tests.helpers.tiny_models import all_selections, random_generators, tiny_model, tiny_questions, tiny_tokenizer

PAIRS = all_selections(4, 2)
POLICIES = {
    "autoregressive": AutoregressivePolicy,
    "pointwise": lambda tokenizer, k: PlackettLucePolicy(tokenizer, k, "pointwise"),
    "query_likelihood": lambda tokenizer, k: PlackettLucePolicy(
        tokenizer, k, "query_likelihood", score_temperature=0.5
    ),
    "passage_end": lambda tokenizer, k: PlackettLucePolicy(tokenizer, k, "passage_end"),
    "identifier": lambda tokenizer, k: PlackettLucePolicy(tokenizer, k, "identifier"),
    "conditional pointwise": lambda tokenizer, k: ConditionalScoresPolicy(tokenizer, k, link_weight=0.3),
    "conditional query_likelihood": lambda tokenizer, k: ConditionalScoresPolicy(
        tokenizer, k, "query_likelihood", score_temperature=2.0, link_weight=None
    ),
    "of a shortlist": lambda tokenizer, k: ConditionalScoresPolicy(tokenizer, k, link_weight=0.3, shortlist_size=2),
}


@pytest.fixture(scope="module")
def model():
    """A model whose three policies are far from uniform, and none of them certain."""
    return tiny_model("llama", tiny_tokenizer(), seed=4)


@pytest.fixture(params=list(POLICIES))
def make_policy(request):
    return lambda num_selected: POLICIES[request.param](tiny_tokenizer(), num_selected)


@torch.no_grad()
def exact_logps(policy, model, row, selections: Tensor) -> Tensor:
    return policy.logps(model, policy.encode([row]), selections[None]).logps[0]


def tempered(logps: Tensor, temperature: float) -> Tensor:
    """The tempered distribution over PAIRS, from the untempered one alone.

    Each choice is tempered: q(i) is proportional to p(i)^(1/T), and q(j | i) to p(j | i)^(1/T).
    """
    table = torch.full((4, 4), float("-inf"), dtype=torch.float64)
    table[PAIRS[:, 0], PAIRS[:, 1]] = logps.double()
    first = table.logsumexp(1)
    second = table - first[:, None]
    joint = (first / temperature).log_softmax(0)[:, None] + (second / temperature).log_softmax(1)
    return joint[PAIRS[:, 0], PAIRS[:, 1]]


def counts(selections: Tensor) -> Tensor:
    return (selections.reshape(-1, 1, 2) == PAIRS).all(-1).sum(0)


def draw(policy, model, temperature: float, calls: int = 6, num: int = 150):
    """Draw `calls * num` pairs for one question, with a generator that goes on from call to call."""
    inputs, generators = policy.encode(tiny_questions(4)), random_generators(1, seed=11)
    with torch.no_grad():
        samples = [policy.sample(model, inputs, num, generators, temperature) for _ in range(calls)]
    return torch.cat([s.selections for s in samples], 1), torch.cat([s.behavior_logps for s in samples], 1), samples


@pytest.mark.parametrize(("size", "num_selected"), [(4, 2), (3, 3), (1, 1), (5, 1)])
def test_probabilities_sum_to_one(make_policy, model, size, num_selected):
    selections = all_selections(size, num_selected)
    logps = exact_logps(make_policy(num_selected), model, tiny_questions(size)[0], selections)
    assert logps.exp().sum().item() == pytest.approx(1.0, abs=1e-5)
    assert len(logps.unique()) == len(selections), "a flat distribution would not tell one policy from another"


@pytest.mark.parametrize("temperature", [1.0, 0.6, 2.0])
def test_draws_follow_the_tempered_distribution(make_policy, model, temperature):
    policy = make_policy(2)
    exact = tempered(exact_logps(policy, model, tiny_questions(4)[0], PAIRS), temperature)
    selections, behavior_logps, _ = draw(policy, model, temperature)
    index = (selections[0][:, None] == PAIRS).all(-1).int().argmax(-1)
    torch.testing.assert_close(behavior_logps[0].double(), exact[index], atol=1e-4, rtol=0)

    seen, expected = counts(selections), exact.exp() * selections.shape[1]
    rare = expected < 5  # Cells this small are put together, as the chi-square test asks for.
    cells = [(seen[~rare], expected[~rare]), (seen[rare].sum()[None], expected[rare].sum()[None])][
        : 1 + bool(rare.any())
    ]
    observed, predicted = (torch.cat(parts).double().numpy() for parts in zip(*cells, strict=True))
    assert chisquare(observed, predicted).pvalue > 1e-3
    if temperature != 1.0:  # The test has the power to tell this temperature from another.
        other = (tempered(exact_logps(policy, model, tiny_questions(4)[0], PAIRS), 1.0).exp() * seen.sum()).numpy()
        assert chisquare(seen.double().numpy(), other).pvalue < 1e-3


def test_entropy_is_unbiased(make_policy, model):
    """The entropies along the selections have the policy's entropy as their mean: E_p[h(z)] = H, to rounding.

    A sample's estimate lies within four of its standard errors, sqrt(Var_p[h] / M).
    """
    policy, row = make_policy(2), tiny_questions(4)[0]
    logps = exact_logps(policy, model, row, PAIRS)
    entropy = -(logps.exp() * logps).sum()
    with torch.no_grad():
        along = policy.logps(model, policy.encode([row] * 12), PAIRS[:, None]).entropy
    mean = (logps.exp() * along).sum()
    assert mean.item() == pytest.approx(entropy.item(), abs=1e-5)
    deviation = (logps.exp() * (along - mean) ** 2).sum().sqrt().item()
    _, _, samples = draw(policy, model, 1.0, calls=1)
    assert samples[0].entropy.item() == pytest.approx(entropy.item(), abs=4 * deviation / 150**0.5 + 1e-5)
    assert abs(samples[0].entropy.item() - torch.tensor(12.0).log().item()) > 0.01


def test_log_probabilities_of_draws_are_the_exact_ones(make_policy, model):
    policy = make_policy(2)
    exact = exact_logps(policy, model, tiny_questions(4)[0], PAIRS)
    selections, _, samples = draw(policy, model, 0.6, calls=1)
    index = (selections[0][:, None] == PAIRS).all(-1).int().argmax(-1)
    torch.testing.assert_close(samples[0].logps[0], exact[index], atol=1e-4, rtol=0)


def test_all_candidates_can_be_selected(make_policy, model):
    policy = make_policy(4)
    with torch.no_grad():
        sample = policy.sample(model, policy.encode(tiny_questions(4)), 8, random_generators(1))
    assert (sample.selections.sort(-1).values == torch.arange(4)).all()
    expected = exact_logps(policy, model, tiny_questions(4)[0], sample.selections[0])
    torch.testing.assert_close(sample.logps[0], expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("num_selected", [1, 3])
def test_rows_of_different_sizes_share_a_batch(make_policy, model, num_selected):
    """What a row draws, and its log-probabilities, do not depend on the rows beside it; K = N for one of them."""
    policy, rows = make_policy(num_selected), tiny_questions(num_selected, 12, 5)
    with torch.no_grad():
        together = policy.sample(model, policy.encode(rows), 6, random_generators(3), 1.5)
        for b, row in enumerate(rows):
            alone = policy.sample(model, policy.encode([row]), 6, random_generators(3)[b : b + 1], 1.5)
            assert together.selections[b].tolist() == alone.selections[0].tolist()
            assert together.selections[b].max() < len(row["candidates"])
            for name in ("logps", "behavior_logps", "entropy"):
                torch.testing.assert_close(getattr(together, name)[b], getattr(alone, name)[0], atol=1e-4, rtol=0)
        best, scores = policy.best(model, policy.encode(rows))
        for b, row in enumerate(rows):
            alone_best, alone_scores = policy.best(model, policy.encode([row]))
            assert best[b].tolist() == alone_best[0].tolist()
            torch.testing.assert_close(scores[b], alone_scores[0], atol=1e-4, rtol=0)


def test_best_is_greedy(make_policy, model):
    """The likeliest first passage, then the likeliest second given it; under Plackett-Luce that is the mode too."""
    policy = make_policy(2)
    for row in tiny_questions(4, 4, 4, 4, 4):
        logps = exact_logps(policy, model, row, PAIRS)
        table = torch.zeros(4, 4)
        table[PAIRS[:, 0], PAIRS[:, 1]] = logps.exp()
        first = int(table.sum(1).argmax())
        best, scores = policy.best(model, policy.encode([row]))
        assert best[0].tolist() == [first, int(table[first].argmax())]
        if isinstance(policy, PlackettLucePolicy):
            assert best[0].tolist() == PAIRS[logps.argmax()].tolist()
            assert scores[0, 0] > scores[0, 1]
        else:
            assert scores.sum().item() == pytest.approx(table[best[0, 0], best[0, 1]].log().item(), abs=1e-4)
        assert best.shape == scores.shape == (1, 2)


def test_fewer_candidates_than_places_is_an_error(make_policy):
    with pytest.raises(ValueError, match=r"Who founded.* has 2 candidates, fewer than num_selected=3"):
        make_policy(3).encode(tiny_questions(4, 2))


def test_gradients_reach_the_model(make_policy, model):
    policy = make_policy(2)
    sample = policy.sample(model, policy.encode(tiny_questions(4)), 3, random_generators(1))
    assert sample.logps.requires_grad
    assert not sample.behavior_logps.requires_grad
    with torch.no_grad():
        assert not policy.logps(model, policy.encode(tiny_questions(4)), PAIRS[None]).logps.requires_grad
