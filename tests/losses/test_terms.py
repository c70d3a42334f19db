"""Gradients of the losses against exact ones, over all ordered pairs of four candidates with fixed item scores.

Expectations over M = 1, 2, 3 draws are found by going through every tuple of draws, so that they are exact; larger M
is sampled, and compared within four standard errors.
"""

import itertools

import pytest
import torch
from torch import Tensor

from dro_trl.losses.dro import control_variate, dro_loss, importance_weights, log_importance
from dro_trl.losses.terms import entropy_loss, kl_loss
from dro_trl.policies.plackett_luce import gumbel_top_k, plackett_luce_logps
from dro_trl.trainer.monitoring import importance_weighted_bound
from tests.helpers.tiny_models import all_selections, random_generators

PAIRS = all_selections(4, 2)
SCORES = torch.tensor([0.5, -0.3, 0.1, 0.8], dtype=torch.float64)
PROPOSAL = torch.tensor([0.0, 0.6, -0.4, 0.2], dtype=torch.float64)
REFERENCE = torch.tensor([-0.5, 0.2, 0.9, 0.0], dtype=torch.float64)
ANSWER_LOGPS = torch.tensor([-0.2, -3.0, -2.5, -1.0, -4.0, -3.5, -0.5, -2.0, -3.0, -1.5, -2.8, -4.5]).double()
"""log p_g(y | x, d_z) for each of PAIRS."""


def pair_logps(scores: Tensor) -> Tensor:
    """(..., 12) log-probabilities of PAIRS under (..., 4) item scores."""
    flat = scores.reshape(-1, 4)
    return plackett_luce_logps(flat, PAIRS.expand(len(flat), 12, 2))[0].reshape(*scores.shape[:-1], 12)


def exact_gradient(objective) -> Tensor:
    """The gradient in the item scores of a function of the twelve log-probabilities."""
    scores = SCORES.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(objective(pair_logps(scores)), scores)
    return gradient


EXACT_DRO = exact_gradient(lambda logps: (logps + ANSWER_LOGPS).logsumexp(-1))


def row_gradients(loss_of, drawn: Tensor, proposal: Tensor) -> Tensor:
    """The descent direction, (R, 4), of each of R rows of drawn pairs, (R, M) indices into PAIRS.

    `loss_of` takes log-probabilities, indices and log-ratios of all rows, and returns their mean loss.
    """
    scores = SCORES.expand(len(drawn), 4).clone().requires_grad_()
    logps = plackett_luce_logps(scores, PAIRS[drawn])[0]
    ratios = logps.detach() - pair_logps(proposal)[drawn]
    (gradient,) = torch.autograd.grad(loss_of(logps, drawn, ratios), scores)
    return -len(drawn) * gradient


def expected_gradient(loss_of, num: int, proposal: Tensor = SCORES) -> Tensor:
    """The expectation over all 12^M tuples of M draws from the proposal: exact."""
    drawn = torch.tensor(list(itertools.product(range(12), repeat=num)))
    probability = pair_logps(proposal)[drawn].sum(-1).exp()
    return probability @ row_gradients(loss_of, drawn, proposal)


def sampled(num: int, rows: int, proposal: Tensor = SCORES, seed: int = 0) -> Tensor:
    """(R, M) indices of pairs, drawn by Gumbel top-K."""
    selections = gumbel_top_k(proposal[None], 2, rows * num, random_generators(1, seed))[0]
    index = torch.full((4, 4), -1)
    index[PAIRS[:, 0], PAIRS[:, 1]] = torch.arange(12)
    return index[selections[:, 0], selections[:, 1]].view(rows, num)


def dro(with_baseline: bool):
    def loss_of(logps: Tensor, drawn: Tensor, ratios: Tensor) -> Tensor:
        weights = importance_weights(log_importance(ratios, ANSWER_LOGPS[drawn]))
        return dro_loss(logps, weights, control_variate(ratios) if with_baseline else None)

    return loss_of


def test_dro_loss_worked_by_hand():
    """Weights 1/4 and 3/4, log-probabilities -1 and -2: -(-1/4 - 6/4) = 7/4; less 1/2 each: -(1/4 - 2/4) = 1/4.

    A second row whose loss is 0 halves the mean.
    """
    logps = torch.tensor([[-1.0, -2.0], [0.0, 0.0]], requires_grad=True)
    weights = torch.tensor([[0.25, 0.75], [0.5, 0.5]], requires_grad=True)
    assert dro_loss(logps, weights).item() == 7 / 8
    loss = dro_loss(logps, weights, torch.full((2, 2), 0.5))
    assert loss.item() == 1 / 8
    loss.backward()
    assert logps.grad.tolist() == [[0.125, -0.125], [0.0, 0.0]]
    assert weights.grad is None


@pytest.mark.parametrize("proposal", [SCORES, PROPOSAL], ids=["on-policy", "off-policy"])
def test_gradient_is_that_of_the_importance_weighted_bound(proposal):
    """d log (1/M) sum_m exp(log p_s + log p_g - log q) = sum_m w_m (d log p_s + d log p_g), for both models."""
    drawn = sampled(6, 3, proposal)
    scores = SCORES.clone().requires_grad_()
    answers = ANSWER_LOGPS.clone().requires_grad_()
    logps = plackett_luce_logps(scores[None].expand(3, 4), PAIRS[drawn])[0]
    ratios = logps - pair_logps(proposal)[drawn]
    bound = importance_weighted_bound(ratios + answers[drawn]).mean()
    expected = torch.autograd.grad(-bound, (scores, answers), retain_graph=True)
    weights = importance_weights(log_importance(ratios, answers[drawn]))
    loss = dro_loss(logps, weights) + dro_loss(answers[drawn], weights)
    for found, wanted in zip(torch.autograd.grad(loss, (scores, answers)), expected, strict=True):
        assert wanted.abs().max() > 0.01
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("proposal", [SCORES, PROPOSAL], ids=["on-policy", "off-policy"])
def test_gradient_tends_to_that_of_the_log_likelihood(proposal):
    """One draw has no bias of interest: its weight is 1 and the expected gradient 0 on-policy. With M the bias falls.

    Exactly for M = 1, 2, 3; within four standard errors at M = 2,000.
    """
    biases = [(expected_gradient(dro(False), num, proposal) - EXACT_DRO).norm().item() for num in (1, 2, 3)]
    assert biases[0] > biases[1] > biases[2] > 0
    if proposal is SCORES:
        assert biases[0] == pytest.approx(EXACT_DRO.norm().item())
    for with_baseline in (False, True):
        found = row_gradients(dro(with_baseline), sampled(2000, 100, proposal), proposal)
        error = found.std(0) / 100**0.5
        assert ((found.mean(0) - EXACT_DRO).abs() <= 4 * error + 0.002).all()
        assert (error < EXACT_DRO.norm() / 20).all()


def test_bias_falls_as_one_over_the_number_of_draws():
    """M times the bias is nearly constant: between M = 4 and M = 32 it keeps its value within a third."""
    scaled = {}
    for num, rows in ((4, 100_000), (32, 20_000)):
        found = row_gradients(dro(False), sampled(num, rows), SCORES)
        scaled[num] = num * (found.mean(0) - EXACT_DRO).norm().item()
        assert num * found.std(0).norm().item() / rows**0.5 < 0.2 * scaled[num]
    assert scaled[32] == pytest.approx(scaled[4], rel=1 / 3)


def test_control_variate_leaves_the_expectation():
    """E_q[grad log p_s] = 0 on-policy, so that subtracting 1/M changes no expectation: exactly, for each M.

    Off-policy the subtracted mean is self-normalised; its expectation is not 0, but falls with M.
    """
    for num in (1, 2, 3):
        with_baseline, without = (expected_gradient(dro(b), num) for b in (True, False))
        torch.testing.assert_close(with_baseline, without, atol=1e-12, rtol=0)
    shifts = [
        (expected_gradient(dro(True), num, PROPOSAL) - expected_gradient(dro(False), num, PROPOSAL)).norm().item()
        for num in (1, 2, 3)
    ]
    assert shifts[0] > shifts[1] > shifts[2] > 0


def test_control_variate_when_the_answer_says_nothing():
    """Equal likelihoods carry no signal: with the control variate the gradient is exactly 0, without it is noise."""

    def loss_of(with_baseline: bool):
        def inner(logps: Tensor, drawn: Tensor, ratios: Tensor) -> Tensor:
            weights = importance_weights(log_importance(ratios, torch.full(drawn.shape, -2.0, dtype=torch.float64)))
            return dro_loss(logps, weights, control_variate(ratios) if with_baseline else None)

        return inner

    for proposal in (SCORES, PROPOSAL):
        drawn = sampled(8, 200, proposal)
        assert row_gradients(loss_of(True), drawn, proposal).abs().max() == 0
        assert row_gradients(loss_of(False), drawn, proposal).std() > 0.1


@pytest.mark.parametrize("num", [8, 16])
def test_variance_with_and_without_the_control_variate(num, record_property):
    """Recorded, since no theorem says which is smaller; both must keep the same mean within their errors."""
    drawn = sampled(num, 20_000)
    with_baseline, without = (row_gradients(dro(b), drawn, SCORES) for b in (True, False))
    record_property(f"variance_with_{num}", with_baseline.var(0).sum().item())
    record_property(f"variance_without_{num}", without.var(0).sum().item())
    difference = with_baseline - without
    assert (difference.mean(0).abs() <= 4 * difference.std(0) / len(drawn) ** 0.5).all()


def entropy_of_draws(logps: Tensor, drawn: Tensor, ratios: Tensor) -> Tensor:
    return entropy_loss(logps, ratios)


def kl_of_draws(logps: Tensor, drawn: Tensor, ratios: Tensor) -> Tensor:
    return kl_loss(logps, pair_logps(REFERENCE)[drawn], ratios)


@pytest.mark.parametrize("proposal", [SCORES, PROPOSAL], ids=["on-policy", "off-policy"])
@pytest.mark.parametrize("num", [1, 2, 3])
def test_entropy_and_kl_gradients_are_unbiased(num, proposal):
    """Exactly, for each M: descending the losses ascends the entropy, and descends the divergence."""
    entropy = exact_gradient(lambda logps: -(logps.exp() * logps).sum())
    divergence = exact_gradient(lambda logps: (logps.exp() * (logps - pair_logps(REFERENCE))).sum())
    torch.testing.assert_close(expected_gradient(entropy_of_draws, num, proposal), entropy)
    torch.testing.assert_close(expected_gradient(kl_of_draws, num, proposal), -divergence)


def test_kl_of_equal_policies_has_no_gradient():
    drawn = sampled(5, 10)
    found = row_gradients(lambda logps, i, ratios: kl_loss(logps, logps.detach(), ratios), drawn, SCORES)
    assert found.abs().max() == 0


def test_rows_count_alike():
    """The mean over rows: the gradient of two equal rows is that of one."""
    drawn = sampled(4, 1)
    for loss_of in (dro(True), entropy_of_draws, kl_of_draws):
        one = row_gradients(loss_of, drawn, PROPOSAL)
        two = row_gradients(loss_of, drawn.expand(2, 4), PROPOSAL)
        torch.testing.assert_close(two, one.expand(2, 4))
