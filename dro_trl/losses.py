"""Losses of selections' log-probabilities: pure functions of tensors, B questions, M selections each.

Every loss is a scalar whose gradient descends; rows count alike, whatever their number of selections.
"""

from torch import Tensor


def dro_loss(logps: Tensor, weights: Tensor, baseline: Tensor | None = None) -> Tensor:
    """Return `-mean_b sum_m (w_m - c_m) log p(z_m)` (DRO, maximization step).

    Args:
        logps: (B, M) log p_s(z|x) of the selector, or log p_g(y|x, d_z) of the generator, in nats.
        weights: (B, M) importance weights, held constant.
        baseline: (B, M) control variate c for the selector's term, held constant; none for the generator's.
    """
    coefficients = weights if baseline is None else weights - baseline
    return -(coefficients.detach() * logps).sum(-1).mean()


def score_function(logps: Tensor, values: Tensor, log_ratios: Tensor) -> Tensor:
    """Return a surrogate whose gradient is that of `E_p[values]` by the score-function estimator.

    The mean of a row's other selections is the baseline. The estimate is without bias, on-policy and off.

    Args:
        logps: (B, M) log p_s(z|x).
        values: (B, M), held constant.
        log_ratios: (B, M) log p_s(z|x) - log q(z|x), held constant.
    """
    values, ratios = values.detach(), log_ratios.detach().exp()
    num = values.shape[-1]
    others = (values.sum(-1, keepdim=True) - values) / max(num - 1, 1)
    return (ratios * (values - others) * logps).mean(-1).mean()


def entropy_loss(logps: Tensor, log_ratios: Tensor) -> Tensor:
    """Return a surrogate that descends the negative entropy `E_p[log p_s(z|x)]`; only its gradient has a meaning."""
    return score_function(logps, logps, log_ratios)


def kl_loss(logps: Tensor, ref_logps: Tensor, log_ratios: Tensor) -> Tensor:
    """Return a surrogate that descends `KL(p_s || p_ref) = E_p[log p_s - log p_ref]`; only its gradient has a meaning.

    Args:
        logps: (B, M) log p_s(z|x).
        ref_logps: (B, M) log-probabilities under the reference selector.
        log_ratios: (B, M) log p_s(z|x) - log q(z|x), held constant.
    """
    return score_function(logps, logps - ref_logps, log_ratios)
