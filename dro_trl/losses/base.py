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
    old_logps: Tensor | None = None
    """(B, M) under the policy that drew the selections, where the draws were not independent, so that `log_ratios` say
    otherwise."""
    leave_one_out: Tensor | None = None
    """(B, M, M), likewise: row m weighs what baselines of selection m are averages of."""

    @property
    def policy_log_ratios(self) -> Tensor:
        """How far the policy has moved since it drew, (B, M) without gradient."""
        return self.log_ratios if self.old_logps is None else self.logps.detach() - self.old_logps

    @property
    def shares(self) -> Tensor:
        """What the selections weigh in a mean over the policy that drew them, (B, M), rows summing to 1."""
        if self.old_logps is None:
            return self.log_ratios.new_full(self.log_ratios.shape, 1 / self.log_ratios.shape[-1])
        return (self.log_ratios - self.policy_log_ratios).softmax(-1)


def penalised_rewards(scored: ScoredSelections, args: LossOptions) -> Tensor:
    """Return the rewards less `kl_coef (log q - log p_ref)`: RLOO and PPO take the KL term as a part of the reward."""
    if scored.ref_logps is None:
        return scored.rewards
    old_logps = scored.logps.detach() - scored.policy_log_ratios
    return scored.rewards - args.kl_coef * (old_logps - scored.ref_logps)
