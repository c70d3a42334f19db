"""Subclasses of DROTrainer that change one step each, by overriding one method.

python examples/custom_trainer.py BestOnly --model "$(dro-trl gemma)" --dataset quickstart/data/train.top8.jsonl
"""

import argparse
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from dro_trl import DROConfig, DROTrainer, Question, ScoredSelections, SelectorGeneratorOutput, load_rag_dataset


class Annealed(DROTrainer):
    """The estimation step: drawn at a temperature that falls from 2 to 1; the weights correct for it exactly."""

    def estimate(self, model: nn.Module, batch: dict[str, Any]) -> dict[str, Any]:
        self.args.temperature = 2.0 - self.state.global_step / self.state.max_steps
        return super().estimate(model, batch)


class BestOnly(DROTrainer):
    """The weights: all on the likeliest selection of each question, in place of softmax(log rho + r / T) (hard EM)."""

    def weights(self, scored: ScoredSelections) -> Tensor:
        weight = super().weights(scored)
        return nn.functional.one_hot(weight.argmax(-1), weight.shape[-1]).to(weight)


class Clipped(DROTrainer):
    """The rewards: no selection falls more than 5 nats behind the best of its question."""

    def rewards(self, rows: Sequence[Question], output: SelectorGeneratorOutput) -> Tensor:
        rewards = super().rewards(rows, output)
        return rewards.clamp(min=rewards.amax(-1, keepdim=True) - 5)


class NearUniform(DROTrainer):
    """The loss: beside the trainer's own, a penalty on how far apart the selector's log-probabilities are."""

    def loss(self, output: SelectorGeneratorOutput, scored: ScoredSelections, weight: Tensor) -> Tensor:
        return super().loss(output, scored, weight) + 0.1 * scored.logps.var(-1).mean()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trainer", choices=["Annealed", "BestOnly", "Clipped", "NearUniform"])
    for name in ("--model", "--dataset"):
        parser.add_argument(name, required=True)
    options = parser.parse_args()
    # With one iteration, sampling and training share a forward, and there is no estimation step to override.
    args = DROConfig("custom_trainer", num_selected=2, num_iterations=2, max_steps=100, report_to="none")
    trainer = globals()[options.trainer](options.model, None, args, load_rag_dataset(options.dataset))
    trainer.train()
    trainer.save_model()
