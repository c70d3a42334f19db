"""What a loss is given: selections, their log-probabilities and rewards."""

from dataclasses import dataclass

from torch import Tensor

from dro_trl.losses.options import LossOptions


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


def penalised_rewards(scored: ScoredSelections, args: LossOptions) -> Tensor:
    """Return the rewards less `kl_coef (log q - log p_ref)`: RLOO and PPO take the KL term as a part of the reward."""
    if scored.ref_logps is None:
        return scored.rewards
    behavior_logps = scored.logps.detach() - scored.log_ratios
    return scored.rewards - args.kl_coef * (behavior_logps - scored.ref_logps)
