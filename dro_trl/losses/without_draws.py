"""Baselines without draws: REPLUG LSR and the selector's side of EMDR², passage by passage, and supervision."""

import math

from torch import Tensor

from dro_trl.losses.base import ScoredSelections
from dro_trl.losses.dro import dro_loss
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


def emdr2_objective(scored: ScoredSelections, weight: Tensor, args: LossOptions) -> Tensor:
    """Return the selector's loss of EMDR² (Sachan et al., 2021): `-log sum_d p_s(d|x) exp(r_d / T)` by its gradient.

    The rewards, the generator's likelihoods given each passage alone, are held constant; the weights are then the
    posterior over passages.
    """
    return dro_loss(scored.logps, weight)


def supervised_objective(scored: ScoredSelections, weight: Tensor, args: LossOptions) -> Tensor:
    """Return minus the mean log-probability of the selections: of gold passages, the only ones there are then."""
    return -scored.logps.mean()


def likeliest(selections: Tensor, logps: Tensor, num_selected: int) -> Tensor:
    """Return the K passages of the highest probability as one selection, (B, 1, K), best first.

    Args:
        selections: (B, M, 1) int64 single passages, some of them possibly several times.
        logps: (B, M) their log-probabilities.
        num_selected: K.
    """
    passages = selections[..., 0]
    repeated = (passages[:, :, None] == passages[:, None, :]).tril(diagonal=-1).any(-1)
    top = logps.detach().masked_fill(repeated, float("-inf")).topk(num_selected, dim=-1).indices
    return passages.gather(1, top)[:, None]
