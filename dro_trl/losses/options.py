"""The options of `DROTrainer` that its losses read."""

from dataclasses import dataclass, field
from typing import Literal

from pydantic import NonNegativeFloat, PositiveFloat

OVER_PASSAGES = ("replug", "emdr2")
"""Losses that are sums over single passages, every one of which is taken."""


def selections_read(loss_type: str, num_selections: int, train_generator: bool) -> int:
    """Return how many selections of a question the generator reads in a step: M, but for two losses.

    Args:
        loss_type: As in `LossOptions`; `"supervised"` reads the gold passages alone, `"emdr2"` the K likeliest
            passages too, where the generator is trained.
        num_selections: M.
        train_generator: Whether it is.
    """
    if loss_type == "supervised":
        return 1
    return num_selections + (loss_type == "emdr2" and train_generator)


@dataclass
class LossOptions:
    """How selections are weighed and what the selector is trained with; a part of `DROConfig`."""

    reward_temperature: PositiveFloat = field(
        default=1.0, metadata={"help": "T in the weights `softmax(log rho + r / T)`; 1 is the exact posterior."}
    )
    loss_type: Literal["dro", "grpo", "rloo", "reinforce", "ppo", "replug", "emdr2", "supervised"] = field(
        default="dro",
        metadata={
            "help": "What the selector is trained with: 'dro' (importance weights); a baseline from reinforcement "
            "learning on the same samples and rewards ('grpo', 'rloo', 'reinforce', 'ppo'), or of earlier joint "
            "training, passage by passage ('replug', 'emdr2', with proposal 'every_passage'). With a baseline the "
            "generator weighs all selections alike; with 'emdr2' it learns from the K likeliest passages together. "
            "'supervised' trains both models on gold passages (`gold_ids`), which shows what labels would give."
        },
    )
    epsilon: PositiveFloat = field(
        default=0.2, metadata={"help": "Clipping of the ratio in 'grpo', 'rloo' and 'ppo'."}
    )
    epsilon_high: PositiveFloat | None = field(
        default=None, metadata={"help": "Upper clipping of the ratio; `epsilon` where not set."}
    )
    scale_rewards: Literal["group", "none"] = field(
        default="group",
        metadata={"help": "Divide the advantages of 'grpo' by the group's standard deviation, or not (Dr. GRPO)."},
    )
    vf_coef: NonNegativeFloat = field(default=0.1, metadata={"help": "Weight of the value head's loss in 'ppo'."})
    cliprange_value: PositiveFloat = field(default=0.2, metadata={"help": "Clipping of the value in 'ppo'."})
    control_variate: bool = field(
        default=True, metadata={"help": "Subtract rho / sum(rho) from the weights in the selector's term."}
    )
    entropy_coef: NonNegativeFloat = field(default=0.0, metadata={"help": "Weight of the selector's entropy bonus."})
    kl_coef: NonNegativeFloat = field(
        default=0.0,
        metadata={
            "help": "Weight of KL(selector || starting selector): in the loss, or in the reward with loss_type 'rloo' "
            "and 'ppo'."
        },
    )
