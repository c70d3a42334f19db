"""Importance weights and advantages of sampled selections: pure functions of tensors, M selections a row."""

import math

from torch import Tensor


def log_importance(log_ratios: Tensor, rewards: Tensor, temperature: float = 1.0) -> Tensor:
    """Return the unnormalised log-weights `log rho + r / T` (DRO, estimation step).

    Args:
        log_ratios: (B, M) log p_s(z|x) - log q(z|x) in nats; 0 where a selection is on-policy.
        rewards: (B, M); with log p_g(y|x, d_z) in nats and T = 1 the weights follow the posterior p(z|x, y).
        temperature: T > 0.

    Returns:
        (B, M) float, without gradient.

    Raises:
        ValueError: If `temperature` is not positive.
    """
    if temperature <= 0:
        raise ValueError(f"reward_temperature={temperature} must be positive")
    return (log_ratios + rewards / temperature).detach()


def importance_weights(log_weights: Tensor) -> Tensor:
    """Return the self-normalised weights `w_m = softmax_m(log w_m)`, (B, M), each row summing to 1."""
    return log_weights.softmax(-1)


def control_variate(log_ratios: Tensor) -> Tensor:
    """Return `rho_m / sum rho`, (B, M): what may be subtracted from the weights in the selector's loss.

    On-policy this is 1/M, and `E_q[rho grad log p_s(z)] = 0` makes the subtraction free of bias; off-policy it shares
    the weights' own self-normalisation and its O(1/M) bias.
    """
    return log_ratios.detach().softmax(-1)


def group_advantages(rewards: Tensor, scale: bool = True) -> Tensor:
    """Return `(r - mean r) / (std r + 1e-4)` within each row (GRPO, Shao et al., 2024).

    Args:
        rewards: (B, M).
        scale: Whether to divide by the sample standard deviation; Dr. GRPO (Liu et al., 2025) does not.

    Returns:
        (B, M) without gradient.
    """
    centred = (rewards - rewards.mean(-1, keepdim=True)).detach()
    return centred / (rewards.std(-1, keepdim=True).detach() + 1e-4) if scale else centred


def leave_one_out_advantages(rewards: Tensor) -> Tensor:
    """Return each reward less the mean of the row's others (RLOO, Ahmadian et al., 2024), (B, M), without gradient."""
    num = rewards.shape[-1]
    return ((rewards - rewards.mean(-1, keepdim=True)) * (num / (num - 1))).detach()


def one_step_advantages(rewards: Tensor, values: Tensor) -> Tensor:
    """Return `r - V(x)`, (B, M), without gradient.

    This is generalised advantage estimation (Schulman et al., 2016) for an episode of one step: the sum over later
    steps is empty, so that neither its lambda nor a discount has any effect.

    Args:
        rewards: (B, M).
        values: (B,) V(x) when the selections were drawn.
    """
    return (rewards - values[:, None]).detach()


def effective_sample_size(weights: Tensor) -> Tensor:
    """Return `1 / sum_m w_m^2`, (B,): from 1 (one selection has all the weight) to M (all weigh the same)."""
    return 1.0 / weights.square().sum(-1)


def importance_weighted_bound(log_weights: Tensor) -> Tensor:
    """Return `log (1/M) sum_m exp(log w_m)`, (B,) nats: a lower bound on log p(y|x) (Burda et al., 2016)."""
    return log_weights.logsumexp(-1) - math.log(log_weights.shape[-1])


def unique_fraction(selections: Tensor) -> Tensor:
    """Return the share of distinct ordered selections among the M of each row, (B,), from 1/M to 1."""
    same = (selections[:, :, None, :] == selections[:, None, :, :]).all(-1)
    first = same.tril(diagonal=-1).any(-1).logical_not()
    return first.float().mean(-1)


def worth_training(weights: Tensor, selections: Tensor, least: float) -> Tensor:
    """Return which selections weigh at least `least`, (B, M) bool: copies together, and in each row the heaviest.

    What lacks a thousandth counts as well, lest rounding decides between equals.

    Leaving the others out of the generator's gradient changes it by at most the weight that is left out, times the
    longest of their gradients.

    Args:
        weights: (B, M), each row summing to 1.
        selections: (B, M, K) int64.
        least: From 0 to 1.
    """
    same = (selections[:, :, None, :] == selections[:, None, :, :]).all(-1)
    together = (same * weights[:, None, :]).sum(-1)
    return together >= 0.999 * together.amax(-1, keepdim=True).clamp(max=least)
