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


def clipped_loss(
    logps: Tensor, log_ratios: Tensor, advantages: Tensor, epsilon: float, epsilon_high: float | None = None
) -> Tensor:
    """Return `-mean min(rho A, clip(rho, 1 - epsilon, 1 + epsilon_high) A)` (PPO, Schulman et al., 2017, equation 7).

    A selection is one action: its ratio is that of the whole selection, as RLOO takes it, and as GRPO does for
    completions of one token.

    Args:
        logps: (B, M) log p_s(z|x).
        log_ratios: (B, M) log p_s(z|x) - log q(z|x); the gradient of the ratio comes from `logps`.
        advantages: (B, M), held constant.
        epsilon: How far the ratio may fall below 1 before it gives no more gradient.
        epsilon_high: How far it may rise above 1; `epsilon` where None.
    """
    ratios = (logps - logps.detach() + log_ratios.detach()).exp()
    clipped = ratios.clamp(1 - epsilon, 1 + (epsilon if epsilon_high is None else epsilon_high))
    advantages = advantages.detach()
    return -(ratios * advantages).minimum(clipped * advantages).mean()


def reinforce_loss(logps: Tensor, log_ratios: Tensor, rewards: Tensor) -> Tensor:
    """Return `-mean rho r log p(z)` without a baseline (Williams, 1992), the ratio and the reward held constant.

    Args:
        logps: (B, M) log p_s(z|x).
        log_ratios: (B, M) log p_s(z|x) - log q(z|x).
        rewards: (B, M).
    """
    return -((log_ratios.exp() * rewards).detach() * logps).mean()


def value_loss(values: Tensor, old_values: Tensor, rewards: Tensor, clip_range: float) -> Tensor:
    """Return PPO's clipped squared error, `1/2 mean max((V - r)^2, (clip(V, V_old +- c) - r)^2)`.

    Args:
        values: (B,) V(x), the expected reward of a question's selections.
        old_values: (B,) what they were when the selections were drawn, held constant.
        rewards: (B, M), the returns of episodes of one step, held constant.
        clip_range: c > 0.
    """
    old, returns = old_values.detach()[:, None], rewards.detach()
    clipped = old + (values[:, None] - old).clamp(-clip_range, clip_range)
    return 0.5 * (values[:, None] - returns).square().maximum((clipped - returns).square()).mean()


def kl_k3_loss(logps: Tensor, ref_logps: Tensor, log_ratios: Tensor) -> Tensor:
    """Return `mean rho (exp(d) - d - 1)` with `d = log p_ref - log p_s`: KL(p_s || p_ref) as TRL's GRPO estimates it.

    Never negative (Schulman's k3). The ratio makes the value and the gradient those of the divergence, on-policy too.

    Args:
        logps: (B, M) log p_s(z|x).
        ref_logps: (B, M) log-probabilities under the reference selector.
        log_ratios: (B, M) log p_s(z|x) - log q(z|x); the gradient of the ratio comes from `logps`.
    """
    difference = ref_logps.detach() - logps
    ratios = (logps - logps.detach() + log_ratios.detach()).exp()
    return (ratios * (difference.exp() - difference - 1)).mean()


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
