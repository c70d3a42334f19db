"""Baselines without draws, over every passage by itself: REPLUG LSR."""

import math

from torch import Tensor

from dro_trl.losses.base import ScoredSelections
from dro_trl.losses.options import LossOptions


def log_copies(scored: ScoredSelections) -> Tensor:
    """Return the logarithm of how many of the M selections are the same passage, (B, M), where every one is taken.

    Divided by it, a sum over selections goes over each passage once.
    """
    behavior_logps = scored.logps.detach() - scored.log_ratios
    return behavior_logps + math.log(scored.logps.shape[-1])


def replug_loss(logps: Tensor, rewards: Tensor, log_counts: Tensor, temperature: float = 1.0) -> Tensor:
    """Return `mean_b KL(p_s(d|x) || softmax_d(r_d / T))` over the passages (REPLUG LSR, Shi et al., 2023).

    Args:
        logps: (B, M) log p_s(d|x) of single passages.
        rewards: (B, M), held constant: log p_g(y|x, d), the language model being the teacher.
        log_counts: (B, M), as `log_copies` returns it.
        temperature: T > 0.
    """
    scores = rewards.detach() / temperature
    targets = scores - (scores - log_counts).logsumexp(-1, keepdim=True)
    return ((logps - log_counts).exp() * (logps - targets)).sum(-1).mean()


def replug_objective(scored: ScoredSelections, weight: Tensor, args: LossOptions) -> Tensor:
    """Return the loss of REPLUG LSR."""
    return replug_loss(scored.logps, scored.rewards, log_copies(scored), args.reward_temperature)
