"""Importance weights against values worked by hand, and against posteriors found by enumeration."""

import math

import pytest
import torch

from dro_trl.losses.dro import control_variate, importance_weights, log_importance, worth_training
from dro_trl.policies.plackett_luce import plackett_luce_logps
from dro_trl.trainer.monitoring import effective_sample_size, importance_weighted_bound, unique_fraction
from tests.helpers.tiny_models import all_selections

LOG = math.log


def test_log_importance():
    """log rho + r / T: log 2 + (-3) / 2, and without gradient."""
    ratios = torch.tensor([[LOG(2), 0.0]], requires_grad=True)
    rewards = torch.tensor([[-3.0, -1.0]], requires_grad=True)
    found = log_importance(ratios, rewards, temperature=2.0)
    torch.testing.assert_close(found, torch.tensor([[LOG(2) - 1.5, -0.5]]))
    assert not found.requires_grad


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_temperature_must_be_positive(temperature):
    with pytest.raises(ValueError, match=f"reward_temperature={temperature} must be positive"):
        log_importance(torch.zeros(1, 1), torch.zeros(1, 1), temperature)


def test_weights_worked_by_hand():
    """Unnormalised 1, 3, 4: weights 1/8, 3/8, 1/2; adding a constant to the logarithms changes nothing.

    ESS = 1 / (1/64 + 9/64 + 16/64) = 64/26. The bound is log(8/3).
    """
    log_weights = torch.tensor([[0.0, LOG(3), LOG(4)]])
    for shift in (0.0, -1000.0, 1000.0):
        weights = importance_weights(log_weights + shift)
        torch.testing.assert_close(weights, torch.tensor([[1 / 8, 3 / 8, 1 / 2]]), atol=1e-4, rtol=0)
        assert effective_sample_size(weights).item() == pytest.approx(64 / 26, rel=1e-3)
        assert importance_weighted_bound(log_weights + shift).item() == pytest.approx(LOG(8 / 3) + shift, rel=1e-6)


def test_one_selection():
    """M = 1: weight 1, ESS 1, and the bound is the log-weight itself."""
    log_weights = torch.tensor([[-7.0]])
    assert importance_weights(log_weights).tolist() == [[1.0]]
    assert effective_sample_size(torch.ones(1, 1)).tolist() == [1.0]
    assert importance_weighted_bound(log_weights).tolist() == [-7.0]
    assert unique_fraction(torch.zeros(1, 1, 2, dtype=torch.int64)).tolist() == [1.0]


def test_equal_weights():
    """M equal weights: ESS = M, and the bound is the common log-weight."""
    log_weights = torch.full((2, 5), -3.0)
    assert effective_sample_size(importance_weights(log_weights)).tolist() == pytest.approx([5.0, 5.0])
    assert importance_weighted_bound(log_weights).tolist() == pytest.approx([-3.0, -3.0])


def test_an_impossible_selection_weighs_nothing():
    """Unnormalised 0 and 2: weights 0 and 1, ESS 1, bound log(2 / 2) = 0."""
    log_weights = torch.tensor([[-math.inf, LOG(2)]])
    weights = importance_weights(log_weights)
    assert weights.tolist() == [[0.0, 1.0]]
    assert effective_sample_size(weights).tolist() == [1.0]
    assert importance_weighted_bound(log_weights).item() == pytest.approx(0.0, abs=1e-6)


def test_control_variate():
    """1/M on-policy; rho = 1, 3: 1/4 and 3/4 off-policy. Each row sums to 1, so that the loss's coefficients to 0."""
    assert control_variate(torch.zeros(1, 4)).tolist() == [[0.25] * 4]
    ratios = torch.tensor([[0.0, LOG(3)]], requires_grad=True)
    found = control_variate(ratios)
    torch.testing.assert_close(found, torch.tensor([[0.25, 0.75]]))
    assert not found.requires_grad


def test_unique_fraction():
    """(0, 1), (1, 0), (0, 1), (2, 0): three distinct of four, since order counts; all the same: one of four."""
    selections = torch.tensor([[[0, 1], [1, 0], [0, 1], [2, 0]], [[3, 1]] * 4])
    assert unique_fraction(selections).tolist() == [0.75, 0.25]


def test_weights_of_all_draws_of_a_proposal_are_the_posterior():
    """Draw each selection z as often as a proposal q(z) = n_z / sum n says, n_z from 1 to 5.

    The weights of the draws of z then add up to p_s(z) p_g(y | z) / p(y), without any sampling error, and the bound
    is log p(y). Without the ratio p_s / q they do not.
    """
    selections = all_selections(4, 2)
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(1, 4, generator=generator, dtype=torch.float64)
    answer_logps = -4 * torch.rand(12, generator=generator, dtype=torch.float64)
    selector_logps = plackett_luce_logps(scores, selections[None])[0][0]
    repeats = torch.arange(12) % 5 + 1
    behavior_logps = (repeats / repeats.sum()).double().log()

    drawn = torch.arange(12).repeat_interleave(repeats)
    ratios = (selector_logps - behavior_logps)[drawn][None]
    log_weights = log_importance(ratios, answer_logps[drawn][None])
    totals = torch.zeros(12, dtype=torch.float64).index_add(0, drawn, importance_weights(log_weights)[0])
    evidence = (selector_logps + answer_logps).logsumexp(0)
    torch.testing.assert_close(totals, (selector_logps + answer_logps - evidence).exp())
    torch.testing.assert_close(importance_weighted_bound(log_weights)[0], evidence)

    uncorrected = torch.zeros(12, dtype=torch.float64).index_add(
        0, drawn, importance_weights(answer_logps[drawn][None])[0]
    )
    assert (uncorrected - totals).abs().max() > 0.05


def test_worth_training_worked_by_hand():
    """At 0.2: A drawn twice weighs 0.1 + 0.15 together, B 0.6, C 0.15; at 0.9 there is still the heaviest."""
    weights = torch.tensor([[0.1, 0.6, 0.15, 0.15]])
    selections = torch.tensor([[[0, 1], [1, 0], [0, 1], [2, 1]]])
    for least, expected in ((0.0, [1, 1, 1, 1]), (0.2, [1, 1, 1, 0]), (0.5, [0, 1, 0, 0]), (0.9, [0, 1, 0, 0])):
        assert worth_training(weights, selections, least).int().tolist() == [expected]
