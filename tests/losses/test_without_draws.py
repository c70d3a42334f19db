"""The baselines that draw nothing, against the gradients of what their papers minimise, by going through all passages.

Two questions of four and three candidates with fixed item scores, single passages as selections; with M = 6 some are
there twice, and must count once.
"""

import pytest
import torch
from torch import Tensor

from dro_trl import DROConfig
from dro_trl.losses.base import ScoredSelections
from dro_trl.losses.loss_types import selection_weights, selector_loss
from dro_trl.losses.without_draws import likeliest, replug_loss
from dro_trl.policies.plackett_luce import every_item, plackett_luce_logps

SCORES = torch.tensor([[0.5, -0.3, 0.1, 0.8], [1.2, 0.4, -0.6, -torch.inf]], dtype=torch.float64)
ANSWER_LOGPS = torch.tensor([[-0.2, -3.0, -2.5, -1.0], [-4.0, -3.5, -0.5, 0.0]], dtype=torch.float64)
"""log p_g(y | x, d) of each passage; the second question has three."""


def loss_and_gradient(loss_type: str, num_selections: int, **options) -> tuple[Tensor, Tensor, Tensor]:
    """The selector's loss of all passages, its gradient in the item scores, and what passages weigh."""
    args = DROConfig("unused", loss_type=loss_type, bf16=False, report_to="none", **options)
    scores = SCORES.clone().requires_grad_()
    selections, shares = every_item([4, 3], num_selections)
    logps, _ = plackett_luce_logps(scores, selections)
    rewards = ANSWER_LOGPS.gather(1, selections[..., 0]).requires_grad_()
    scored = ScoredSelections(logps, logps.detach() - shares, rewards)
    weight = selection_weights(scored, args)
    loss = selector_loss(scored, weight, args)
    found, of_rewards = torch.autograd.grad(loss, (scores, rewards), allow_unused=True)
    assert of_rewards is None  # The generator's likelihoods are held constant.
    by_passage = torch.zeros_like(SCORES).scatter_add(1, selections[..., 0], weight)
    return loss.detach(), found, by_passage


def gradient_of(objective) -> tuple[Tensor, Tensor]:
    """The mean over the questions of a function of one question's item scores and likelihoods, and its gradient."""
    scores = SCORES.clone().requires_grad_()
    total = torch.stack([objective(scores[b, :n], ANSWER_LOGPS[b, :n]) for b, n in enumerate((4, 3))]).mean()
    (gradient,) = torch.autograd.grad(total, scores)
    assert gradient.abs().max() > 0.05
    return total.detach(), gradient


@pytest.mark.parametrize("num_selections", [4, 6])
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_replug_descends_the_divergence_from_the_language_models_preference(num_selections, temperature):
    """KL(P_R || Q_LM), in this direction (Shi et al., 2023), the retriever's distribution first."""

    def divergence(scores: Tensor, answer_logps: Tensor) -> Tensor:
        retriever, teacher = scores.softmax(-1), (answer_logps / temperature).softmax(-1)
        return (retriever * (retriever.log() - teacher.log())).sum()

    expected, gradient = gradient_of(divergence)
    loss, found, weight = loss_and_gradient("replug", num_selections, reward_temperature=temperature)
    torch.testing.assert_close(loss, expected, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(found, gradient, atol=1e-6, rtol=1e-6)
    alike = torch.tensor([[1 / 4] * 4, [1 / 3] * 3 + [0]], dtype=torch.float64)
    torch.testing.assert_close(weight, alike, atol=1e-6, rtol=0)  # For the generator, where it is trained.


@pytest.mark.parametrize("num_selections", [4, 6])
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_emdr2_ascends_the_marginal_over_single_passages(num_selections, temperature):
    """log sum_k p(z_k) SG(p(a | z_k)) (Sachan et al., 2021), here over all candidates."""

    def surprise(scores: Tensor, answer_logps: Tensor) -> Tensor:
        return -(scores.log_softmax(-1) + answer_logps / temperature).logsumexp(-1)

    _, gradient = gradient_of(surprise)
    _, found, weight = loss_and_gradient("emdr2", num_selections, reward_temperature=temperature)
    torch.testing.assert_close(found, gradient, atol=1e-6, rtol=1e-6)
    posterior = (SCORES + ANSWER_LOGPS / temperature).softmax(-1)
    torch.testing.assert_close(weight, posterior, atol=1e-6, rtol=0)


def test_emdr2_worked_by_hand():
    """Flat over two, likelihoods 3/4 and 1/4: the posterior is 3/4, 1/4, and the loss falls by it less 1/2 each."""
    scores = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    logps = scores.log_softmax(-1)
    rewards = torch.tensor([[0.75, 0.25]], dtype=torch.float64).log()
    scored = ScoredSelections(logps, torch.zeros(1, 2, dtype=torch.float64), rewards)
    args = DROConfig("unused", loss_type="emdr2", bf16=False, report_to="none")
    selector_loss(scored, selection_weights(scored, args), args).backward()
    torch.testing.assert_close(scores.grad, torch.tensor([[-0.25, 0.25]], dtype=torch.float64))


def test_the_likeliest_passages_are_taken_once():
    """Of passages 0, 1, 2, 0, 1, 2 the copies do not count: best first, 2 and then 0."""
    selections = torch.tensor([[0, 1, 2, 0, 1, 2], [0, 1, 2, 3, 4, 5]])[..., None]
    logps = torch.tensor([[0.3, 0.1, 0.6, 0.3, 0.1, 0.6], [0.1, 0.05, 0.2, 0.05, 0.35, 0.25]]).log()
    assert likeliest(selections, logps, 2).tolist() == [[[2, 0]], [[4, 5]]]


def test_replug_worked_by_hand():
    """A flat selector of two, the teacher's preference 3/4 and 1/4: 1/2 log(2/3) + 1/2 log 2 = 1/2 log(4/3).

    The gradient in the scores is p_i (log p_i/t_i - KL): 1/2 (log(2/3) - 1/2 log(4/3)) = -1/4 log 3, and its negative.
    """
    scores = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    log_3 = torch.tensor(3.0, dtype=torch.float64).log()
    rewards = torch.stack([2 * log_3, torch.zeros_like(log_3)])[None]
    loss = replug_loss(scores.log_softmax(-1), rewards, torch.zeros(1, 2), temperature=2.0)
    loss.backward()
    assert loss.item() == pytest.approx(0.5 * torch.tensor(4 / 3).log().item())
    torch.testing.assert_close(scores.grad, torch.stack([-log_3, log_3])[None] / 4)
