"""The losses' gradients over all sets that can be drawn without replacement, against the exact ones."""

import itertools

import pytest
import torch

from dro_trl.losses.base import ScoredSelections
from dro_trl.losses.loss_types import selection_weights, selector_loss
from dro_trl.losses.options import LossOptions
from dro_trl.policies.plackett_luce import plackett_luce_logps
from dro_trl.policies.stochastic_beams import set_weights
from tests.helpers.tiny_models import all_selections

PAIRS = all_selections(3, 2)
DRAWN_FROM = torch.tensor([0.9, -0.3, 0.1], dtype=torch.float64)
MOVED = torch.tensor([0.85, -0.2, 0.1], dtype=torch.float64)
REFERENCE = plackett_luce_logps(torch.tensor([[-0.5, 0.2, 0.4]], dtype=torch.float64), PAIRS[None])[0][0]
REWARDS = torch.tensor([0.3, -2.0, 1.0, -0.7, 0.2, -1.5], dtype=torch.float64)


def logps_of(scores):
    return plackett_luce_logps(scores[None], PAIRS[None])[0][0]


def gradient(objective, scores):
    scores = scores.clone().requires_grad_()
    (found,) = torch.autograd.grad(objective(logps_of(scores)), scores)
    return found


def sets(num):
    """Each set of M, its probability, log R and the weights of its baselines."""
    probs = logps_of(DRAWN_FROM).exp()
    for drawn in map(list, itertools.combinations(range(6), num)):
        rest = probs[[i for i in range(6) if i not in drawn]].sum()
        probability = 0.0
        for order in itertools.permutations(drawn):
            found, left = 1.0, 1.0
            for i in order:
                found, left = found * float(probs[i]) / left, left - float(probs[i])
            probability += found
        yield drawn, probability, *set_weights(probs[drawn].log()[None], rest.log()[None])


def scored(logps, drawn, log_factors, leave_one_out, values=None):
    log_ratios = logps[drawn].detach()[None] + log_factors + torch.tensor(float(len(drawn))).log()
    return ScoredSelections(
        logps[drawn][None],
        log_ratios,
        REWARDS[drawn][None],
        REFERENCE[drawn][None],
        values,
        None if values is None else values.detach(),
        logps_of(DRAWN_FROM)[drawn][None],
        leave_one_out,
    )


def expected(args, num, scores, values=None):
    """The mean of the loss's gradient over all that can be drawn."""
    total = torch.zeros(3, dtype=torch.float64)
    for drawn, probability, log_factors, leave_one_out in sets(num):

        def loss(logps, parts=(drawn, log_factors, leave_one_out)):
            known = scored(logps, *parts, values)
            return selector_loss(known, selection_weights(known, args), args)

        total += probability * gradient(loss, scores)
    return total


def reward_gradient(scores, kl_coef=0.0):
    """That of the expected reward, less the divergence from the reference."""
    return gradient(lambda logps: (logps.exp() * (REWARDS - kl_coef * (logps - REFERENCE))).sum(), scores)


@pytest.mark.parametrize("scores", [DRAWN_FROM, MOVED], ids=["on-policy", "off-policy"])
@pytest.mark.parametrize("num", [2, 3, 6])
def test_gradients_are_unbiased(num, scores):
    """Those of REINFORCE, RLOO and PPO, and of the KL and entropy terms; ratios of 1.1 and less are not clipped."""
    assert 1e-3 < (logps_of(MOVED) - logps_of(DRAWN_FROM)).abs().max() < 0.18
    plain, divergence = reward_gradient(scores), reward_gradient(scores) - reward_gradient(scores, 1.0)
    torch.testing.assert_close(-expected(LossOptions(loss_type="rloo"), num, scores), plain)
    torch.testing.assert_close(-expected(LossOptions(loss_type="reinforce"), num, scores), plain)
    values = torch.tensor([0.4], dtype=torch.float64)
    torch.testing.assert_close(-expected(LossOptions(loss_type="ppo", vf_coef=0.0), num, scores, values), plain)
    with_kl = LossOptions(loss_type="reinforce", kl_coef=0.3)
    torch.testing.assert_close(-expected(with_kl, num, scores), plain - 0.3 * divergence)
    with_entropy = LossOptions(loss_type="reinforce", entropy_coef=0.3)
    entropy = gradient(lambda logps: -(logps.exp() * logps).sum(), scores)
    torch.testing.assert_close(-expected(with_entropy, num, scores), plain + 0.3 * entropy)


def test_rloo_takes_the_divergence_as_a_part_of_the_reward():
    found = -expected(LossOptions(loss_type="rloo", kl_coef=0.3), 3, DRAWN_FROM)
    torch.testing.assert_close(found, reward_gradient(DRAWN_FROM, 0.3))


def test_all_selections_taken_give_exact_gradients():
    """Nothing is left to chance: DRO's gradient is that of log p(y), GRPO's that of the reward over its deviation."""
    dro = gradient(lambda logps: (logps + REWARDS).logsumexp(-1), DRAWN_FROM)
    torch.testing.assert_close(-expected(LossOptions(), 6, DRAWN_FROM), dro)
    probs = logps_of(DRAWN_FROM).exp()
    deviation = (probs @ REWARDS.square() - (probs @ REWARDS) ** 2).sqrt()
    found = -expected(LossOptions(loss_type="grpo"), 6, DRAWN_FROM)
    torch.testing.assert_close(found, reward_gradient(DRAWN_FROM) / (deviation + 1e-4))
    unscaled = LossOptions(loss_type="grpo", scale_rewards="none")
    torch.testing.assert_close(-expected(unscaled, 6, DRAWN_FROM), reward_gradient(DRAWN_FROM))


def test_the_value_is_that_of_the_policy():
    """PPO's value descends to the expected reward, not to the mean of the distinct selections."""
    args, total = LossOptions(loss_type="ppo", vf_coef=1.0, cliprange_value=100.0), 0.0
    for drawn, probability, *parts in sets(3):
        values = torch.tensor([0.4], dtype=torch.float64, requires_grad=True)
        known = scored(logps_of(DRAWN_FROM), drawn, *parts, values)
        (found,) = torch.autograd.grad(selector_loss(known, selection_weights(known, args), args), values)
        total += probability * float(found)
    assert total == pytest.approx(0.4 - float(logps_of(DRAWN_FROM).exp() @ REWARDS))


def test_what_is_clipped_is_how_far_the_policy_has_moved():
    """A selection that weighs much beside the others is not clipped for it; one that has become likelier is."""
    drawn, _, *parts = next(sets(3))
    for moved, some in ((0.0, True), (0.3, False)):
        logps = (logps_of(DRAWN_FROM) + moved).requires_grad_()
        known = scored(logps, drawn, *parts)
        assert known.log_ratios[0, 1].exp() > 1.2
        known.rewards[:] = 0.0
        known.rewards[0, 1] = 5.0
        args = LossOptions(loss_type="rloo")
        known.ref_logps = None  # Without a reference the rewards are these alone.
        (found,) = torch.autograd.grad(selector_loss(known, selection_weights(known, args), args), logps)
        assert bool(found[drawn[1]] != 0) is some


def test_the_generator_weighs_as_the_policy_does():
    """With a baseline from reinforcement learning: not all alike, as where draws repeat what is likely."""
    drawn, _, log_factors, leave_one_out = next(sets(3))
    known = scored(logps_of(DRAWN_FROM), drawn, log_factors, leave_one_out)
    weight = selection_weights(known, LossOptions(loss_type="grpo"))
    torch.testing.assert_close(weight, (logps_of(DRAWN_FROM)[drawn] + log_factors).exp())
