"""What each `loss_type` makes of scored selections: a new one is a function in a file here, and a line in `LOSSES`."""

from collections.abc import Callable

from torch import Tensor

from dro_trl.losses.base import ScoredSelections
from dro_trl.losses.baselines import grpo_objective, ppo_objective, reinforce_objective, rloo_objective
from dro_trl.losses.dro import dro_objective, importance_weights, log_importance
from dro_trl.losses.options import OVER_PASSAGES, LossOptions
from dro_trl.losses.terms import entropy_loss
from dro_trl.losses.without_draws import emdr2_objective, log_copies, replug_objective, supervised_objective

LOSSES: dict[str, Callable[[ScoredSelections, Tensor, LossOptions], Tensor]] = {
    "dro": dro_objective,
    "grpo": grpo_objective,
    "rloo": rloo_objective,
    "reinforce": reinforce_objective,
    "ppo": ppo_objective,
    "replug": replug_objective,
    "emdr2": emdr2_objective,
    "supervised": supervised_objective,
}
"""The selector's loss by `loss_type`, of the selections, their weights, (B, M), and the options: a scalar."""


def log_weights(scored: ScoredSelections, args: LossOptions) -> Tensor:
    """Return the unnormalised log-weights of the posterior, (B, M)."""
    return log_importance(scored.log_ratios, scored.rewards, args.reward_temperature)


def selection_weights(scored: ScoredSelections, args: LossOptions) -> Tensor:
    """Return what each selection weighs, (B, M), rows summing to 1: the posterior, or as drawn.

    It is the posterior with `"dro"` and `"emdr2"`. With `"replug"` it is passages that weigh alike, however often each
    of them is taken.
    """
    if args.loss_type in ("dro", "emdr2"):
        return importance_weights(log_weights(scored, args))
    if args.loss_type in OVER_PASSAGES:
        return importance_weights(-log_copies(scored))
    return scored.shares.to(scored.rewards)


def selector_loss(scored: ScoredSelections, weight: Tensor, args: LossOptions) -> Tensor:
    """Return the selector's loss, a scalar, with the entropy and KL terms that `args` ask for.

    Args:
        scored: The selections.
        weight: (B, M) importance weights, for `loss_type="dro"`.
        args: Options.
    """
    loss = LOSSES[args.loss_type](scored, weight, args)
    if args.entropy_coef:
        loss = loss + args.entropy_coef * entropy_loss(scored.logps, scored.log_ratios, scored.leave_one_out)
    return loss
