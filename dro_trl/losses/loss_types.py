"""What each `loss_type` makes of scored selections; the maths is in `weights` and `losses`."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from dro_trl.losses import dro as weights
from dro_trl.losses import terms as losses
from dro_trl.trainer.dro_config import DROConfig


@dataclass
class ScoredSelections:
    """The selections of a micro-batch and all that is known of them. B questions, M selections each."""

    logps: Tensor
    """(B, M) log p_s(z|x) in nats, with gradient."""
    log_ratios: Tensor
    """(B, M) log p_s(z|x) - log q(z|x), without gradient; 0 where a selection is on-policy."""
    rewards: Tensor
    """(B, M)."""
    ref_logps: Tensor | None = None
    """(B, M) under the reference selector, with `kl_coef`."""
    values: Tensor | None = None
    """(B,) V(x) with gradient, with `loss_type="ppo"`."""
    old_values: Tensor | None = None
    """(B,) V(x) when the selections were drawn."""


def log_importance(scored: ScoredSelections, args: DROConfig) -> Tensor:
    """Return the unnormalised log-weights of the posterior, (B, M)."""
    return weights.log_importance(scored.log_ratios, scored.rewards, args.reward_temperature)


def selection_weights(scored: ScoredSelections, args: DROConfig) -> Tensor:
    """Return what each selection weighs, (B, M), rows summing to 1: the posterior with `"dro"`, else all alike."""
    if args.loss_type == "dro":
        return weights.importance_weights(log_importance(scored, args))
    return scored.rewards.new_full(scored.rewards.shape, 1 / scored.rewards.shape[-1])


def selector_loss(scored: ScoredSelections, weight: Tensor, args: DROConfig) -> Tensor:
    """Return the selector's loss, a scalar, with the entropy and KL terms that `args` ask for.

    Args:
        scored: The selections.
        weight: (B, M) importance weights, for `loss_type="dro"`.
        args: Options.
    """
    loss = _dro(scored, weight, args) if args.loss_type == "dro" else _REINFORCED[args.loss_type](scored, args)
    if args.entropy_coef:
        loss = loss + args.entropy_coef * losses.entropy_loss(scored.logps, scored.log_ratios)
    if scored.ref_logps is not None and args.loss_type in ("dro", "reinforce"):
        loss = loss + args.kl_coef * losses.kl_loss(scored.logps, scored.ref_logps, scored.log_ratios)
    return loss


def _dro(scored: ScoredSelections, weight: Tensor, args: DROConfig) -> Tensor:
    baseline = weights.control_variate(scored.log_ratios) if args.control_variate else None
    return losses.dro_loss(scored.logps, weight, baseline)


def _grpo(scored: ScoredSelections, args: DROConfig) -> Tensor:
    advantages = weights.group_advantages(scored.rewards, scale=args.scale_rewards == "group")
    loss = losses.clipped_loss(scored.logps, scored.log_ratios, advantages, args.epsilon, args.epsilon_high)
    if scored.ref_logps is not None:
        loss = loss + args.kl_coef * losses.kl_k3_loss(scored.logps, scored.ref_logps, scored.log_ratios)
    return loss


def _rloo(scored: ScoredSelections, args: DROConfig) -> Tensor:
    advantages = weights.leave_one_out_advantages(_penalised(scored, args))
    return losses.clipped_loss(scored.logps, scored.log_ratios, advantages, args.epsilon, args.epsilon_high)


def _reinforce(scored: ScoredSelections, args: DROConfig) -> Tensor:
    return losses.reinforce_loss(scored.logps, scored.log_ratios, scored.rewards)


def _ppo(scored: ScoredSelections, args: DROConfig) -> Tensor:
    assert scored.values is not None
    assert scored.old_values is not None
    rewards = _penalised(scored, args)
    advantages = weights.one_step_advantages(rewards, scored.old_values)
    loss = losses.clipped_loss(scored.logps, scored.log_ratios, advantages, args.epsilon, args.epsilon_high)
    return loss + args.vf_coef * losses.value_loss(scored.values, scored.old_values, rewards, args.cliprange_value)


def _penalised(scored: ScoredSelections, args: DROConfig) -> Tensor:
    """The rewards less `kl_coef (log q - log p_ref)`: RLOO and PPO take the KL term as a part of the reward."""
    if scored.ref_logps is None:
        return scored.rewards
    behavior_logps = scored.logps.detach() - scored.log_ratios
    return scored.rewards - args.kl_coef * (behavior_logps - scored.ref_logps)


_REINFORCED: dict[str, Callable[[ScoredSelections, DROConfig], Tensor]] = {
    "grpo": _grpo,
    "rloo": _rloo,
    "reinforce": _reinforce,
    "ppo": _ppo,
}
