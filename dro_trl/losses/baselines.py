"""The baselines from reinforcement learning, on the same samples and rewards: GRPO, RLOO, REINFORCE, PPO."""

from torch import Tensor

from dro_trl.losses.base import ScoredSelections, penalised_rewards
from dro_trl.losses.options import LossOptions
from dro_trl.losses.terms import baselines, with_kl


def group_advantages(
    rewards: Tensor, scale: bool = True, shares: Tensor | None = None, leave_one_out: Tensor | None = None
) -> Tensor:
    """Return `(r - mean r) / (std r + 1e-4)` within each row (GRPO, Shao et al., 2024).

    Args:
        rewards: (B, M).
        scale: Whether to divide by the sample standard deviation; Dr. GRPO (Liu et al., 2025) does not.
        shares: (B, M) what the rewards weigh, where the draws were not independent; all alike where None.
        leave_one_out: (B, M, M), likewise: with `shares` the pairs of the variance, which is without bias.

    Returns:
        (B, M) without gradient.
    """
    if shares is not None and leave_one_out is not None:
        centred = (rewards - (shares * rewards).sum(-1, keepdim=True)).detach()
        pairs = (rewards[:, :, None] - rewards[:, None]).square()
        variance = 0.5 * (shares[..., None] * leave_one_out * pairs).sum((-1, -2))[:, None]
        return centred / (variance.sqrt().detach() + 1e-4) if scale else centred
    centred = (rewards - rewards.mean(-1, keepdim=True)).detach()
    return centred / (rewards.std(-1, keepdim=True).detach() + 1e-4) if scale else centred


def leave_one_out_advantages(rewards: Tensor, leave_one_out: Tensor | None = None) -> Tensor:
    """Return each reward less the mean of the row's others (RLOO, Ahmadian et al., 2024), (B, M), without gradient.

    Args:
        rewards: (B, M).
        leave_one_out: (B, M, M) what weighs that mean, where the draws were not independent (Kool et al., 2020).
    """
    if leave_one_out is not None:
        return (rewards - baselines(rewards, leave_one_out)).detach()
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


def clipped_loss(
    logps: Tensor,
    log_ratios: Tensor,
    advantages: Tensor,
    epsilon: float,
    epsilon_high: float | None = None,
    shares: Tensor | None = None,
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
        shares: (B, M) what the selections weigh in the mean, each row summing to 1; all alike where None.
    """
    ratios = (logps - logps.detach() + log_ratios.detach()).exp()
    clipped = ratios.clamp(1 - epsilon, 1 + (epsilon if epsilon_high is None else epsilon_high))
    advantages = advantages.detach()
    return -_mean((ratios * advantages).minimum(clipped * advantages), shares)


def _mean(values: Tensor, shares: Tensor | None) -> Tensor:
    return values.mean() if shares is None else (shares.detach() * values).sum(-1).mean()


def reinforce_loss(logps: Tensor, log_ratios: Tensor, rewards: Tensor) -> Tensor:
    """Return `-mean rho r log p(z)` without a baseline (Williams, 1992), the ratio and the reward held constant.

    Args:
        logps: (B, M) log p_s(z|x).
        log_ratios: (B, M) log p_s(z|x) - log q(z|x).
        rewards: (B, M).
    """
    return -((log_ratios.exp() * rewards).detach() * logps).mean()


def value_loss(
    values: Tensor, old_values: Tensor, rewards: Tensor, clip_range: float, shares: Tensor | None = None
) -> Tensor:
    """Return PPO's clipped squared error, `1/2 mean max((V - r)^2, (clip(V, V_old +- c) - r)^2)`.

    Args:
        values: (B,) V(x), the expected reward of a question's selections.
        old_values: (B,) what they were when the selections were drawn, held constant.
        rewards: (B, M), the returns of episodes of one step, held constant.
        clip_range: c > 0.
        shares: As in `clipped_loss`.
    """
    old, returns = old_values.detach()[:, None], rewards.detach()
    clipped = old + (values[:, None] - old).clamp(-clip_range, clip_range)
    return 0.5 * _mean((values[:, None] - returns).square().maximum((clipped - returns).square()), shares)


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


def _shares(scored: ScoredSelections) -> Tensor | None:
    return None if scored.old_logps is None else scored.shares


def _clipped(scored: ScoredSelections, advantages: Tensor, args: LossOptions) -> Tensor:
    """The clipped loss; what is clipped is how far the policy has moved, not what a selection weighs."""
    bounds = args.epsilon, args.epsilon_high
    return clipped_loss(scored.logps, scored.policy_log_ratios, advantages, *bounds, _shares(scored))


def grpo_objective(scored: ScoredSelections, weight: Tensor, args: LossOptions) -> Tensor:
    """Return the clipped loss of advantages within the group, and the KL term of TRL's GRPO."""
    scale, shares = args.scale_rewards == "group", _shares(scored)
    loss = _clipped(scored, group_advantages(scored.rewards, scale, shares, scored.leave_one_out), args)
    if scored.ref_logps is not None:
        loss = loss + args.kl_coef * kl_k3_loss(scored.logps, scored.ref_logps, scored.log_ratios)
    return loss


def rloo_objective(scored: ScoredSelections, weight: Tensor, args: LossOptions) -> Tensor:
    """Return the clipped loss of leave-one-out advantages, the KL term being a part of the reward."""
    return _clipped(scored, leave_one_out_advantages(penalised_rewards(scored, args), scored.leave_one_out), args)


def reinforce_objective(scored: ScoredSelections, weight: Tensor, args: LossOptions) -> Tensor:
    """Return the loss of REINFORCE, and the KL term where there is a reference."""
    return with_kl(reinforce_loss(scored.logps, scored.log_ratios, scored.rewards), scored, args)


def ppo_objective(scored: ScoredSelections, weight: Tensor, args: LossOptions) -> Tensor:
    """Return the clipped loss of one-step advantages, and the value head's loss."""
    assert scored.values is not None
    assert scored.old_values is not None
    rewards = penalised_rewards(scored, args)
    advantages = one_step_advantages(rewards, scored.old_values)
    value = value_loss(scored.values, scored.old_values, rewards, args.cliprange_value, _shares(scored))
    return _clipped(scored, advantages, args) + args.vf_coef * value
