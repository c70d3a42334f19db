"""Direct Retrieval-augmented Optimization: importance weights of sampled selections, and the loss that they make."""

from torch import Tensor

from dro_trl.losses.base import ScoredSelections
from dro_trl.losses.options import LossOptions
from dro_trl.losses.terms import with_kl


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


def dro_loss(logps: Tensor, weights: Tensor, baseline: Tensor | None = None) -> Tensor:
    """Return `-mean_b sum_m (w_m - c_m) log p(z_m)` (DRO, maximization step).

    Args:
        logps: (B, M) log p_s(z|x) of the selector, or log p_g(y|x, d_z) of the generator, in nats.
        weights: (B, M) importance weights, held constant.
        baseline: (B, M) control variate c for the selector's term, held constant; none for the generator's.
    """
    coefficients = weights if baseline is None else weights - baseline
    return -(coefficients.detach() * logps).sum(-1).mean()


def dro_objective(scored: ScoredSelections, weight: Tensor, args: LossOptions) -> Tensor:
    """Return DRO's loss of the selector, less the control variate where asked for, and the KL term."""
    baseline = control_variate(scored.log_ratios) if args.control_variate else None
    return with_kl(dro_loss(scored.logps, weight, baseline), scored, args)
