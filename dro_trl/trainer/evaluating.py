"""Evaluation while training: the loss and the draws' measures, and EM, F1 and recall of what the pair would answer."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import EarlyStoppingCallback
from transformers.trainer_utils import EvalLoopOutput

from dro_trl.lm.endpoint import GeneratorEndpoint
from dro_trl.metrics import exact_match, recall, token_f1
from dro_trl.models.answers import answer_selections
from dro_trl.names import nearest
from dro_trl.rewards.calls import RewardSum, reward_columns, reward_name
from dro_trl.trainer.monitoring import Monitor
from dro_trl.trainer.pair_trainer import PairTrainer
from dro_trl.trainer.sampler import num_counted
from dro_trl.types import Question, Selection

ALWAYS = (
    *("loss", "reward", "reward_std", "iw_bound", "ess", "entropy", "frac_unique_selections", "log_ratio_abs"),
    *("runtime", "samples_per_second", "steps_per_second"),
)
"""What every evaluation measures."""
GENERATED = ("em", "f1", "recall")
"""What `predict_with_generate` adds."""


class EvaluatingTrainer(PairTrainer):
    """Evaluates a pair on whole batches of questions, and knows by which measures the best model can be chosen."""

    monitor: Monitor
    reward_sum: RewardSum

    def prediction_step(
        self, model: nn.Module, inputs: Any, prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Return the loss of a batch of the evaluation data."""
        batch, means = self._prepare_inputs(inputs), self.monitor.eval
        counted = num_counted(
            len(inputs), self.args.eval_batch_size, self.args.process_index, self.accelerator.gradient_state
        )
        before = dict(means.totals)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss: Any = self.compute_loss(model, {**batch, "counted": counted})
            if self.args.predict_with_generate:
                means.add(self.answered(model, inputs, counted))
        if not counted:  # This process had nothing left, and kept the others company.
            means.totals = before
        return loss.detach(), None, None

    @property
    def _answering(self) -> nn.Module | GeneratorEndpoint:
        """Which generator writes answers."""
        pair: Any = self.accelerator.unwrap_model(self.model)
        return pair.scorer.endpoint or pair.generator  # type: ignore[no-any-return]

    def answered(self, model: nn.Module, rows: Sequence[Question], counted: int) -> dict[str, Tensor]:
        """Return how good the answers are that the pair gives by itself, from the selection that it prefers.

        Args:
            model: The composite module, wrapped or not.
            rows: B questions, which every process of several answers.
            counted: How many of them count.

        Returns:
            `em` and `f1` of each, and `recall` of those that name gold passages.
        """
        chosen: list[list[Selection]] = model(rows=rows, preferred=True).selections.tolist()
        selections = [selection for [selection] in chosen]
        answers = answer_selections(
            self._answering,
            self.tokenizers["generator"],
            reward_columns(rows, chosen),
            self.args.texts,
            self.args.max_thinking_tokens,
            self.args.eval_max_new_tokens,
        )
        judged = list(zip(rows, selections, answers, strict=True))[:counted]
        of_gold = [(gold, row["candidates"], z) for row, z, _ in judged if (gold := row.get("gold_ids"))]
        measured = {
            "em": [exact_match(answer, row["answers"]) for row, _, answer in judged],
            "f1": [token_f1(answer, row["answers"]) for row, _, answer in judged],
            "recall": [recall(gold, [candidates[i]["id"] for i in z]) for gold, candidates, z in of_gold],
        }
        return {name: torch.tensor(values) for name, values in measured.items() if values}

    def evaluation_loop(
        self,
        dataloader: Any,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Add to Trainer's metrics the means of what the batches recorded, with the prefix."""
        output = super().evaluation_loop(dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix)
        means = self.monitor.eval.take()
        assert output.metrics is not None
        output.metrics.update({f"{metric_key_prefix}_{name}": mean for name, mean in means.items()})
        return output

    # The best model, and when to stop

    def eval_measures(self) -> list[str]:
        """Return what an evaluation will measure, without the `eval_` before it, as far as the options say."""
        args, weights = self.args, self.accelerator.unwrap_model(self.model).score_weights
        names = [*ALWAYS, *(f"rewards/{reward_name(func)}" for func in self.reward_sum.funcs)]
        names += ["kl"] if args.kl_coef > 0 and args.train_selector else []
        names += ["value"] if args.loss_type == "ppo" and args.train_selector else []
        names += weights.metrics() if weights is not None else []
        sets = self.eval_dataset if isinstance(self.eval_dataset, dict) else {"": self.eval_dataset}
        found: list[str] = []
        for prefix, rows in sets.items():
            most = _most_gold(rows)
            of_gold = ["selection_recall"] if most else []
            of_gold += [f"selection_recall/{number}" for number in range(1, most + 1) if most > 1]
            generated = [n for n in GENERATED if n != "recall" or of_gold] if args.predict_with_generate else []
            found += [f"{prefix}_{name}" if prefix else name for name in (*names, *of_gold, *generated)]
        return found

    def check_best_metric(self) -> None:
        """Refuse a `metric_for_best_model` that no evaluation will have, before anything is trained.

        Rewards that log measures of their own, and subclasses, are told when it turns out.
        """
        asked = self.args.metric_for_best_model
        may_log_more = self.reward_sum.names("log_metric") or not type(self).__module__.startswith("dro_trl.")
        if asked is None or self.eval_dataset is None or self.model is None or may_log_more:
            return
        if asked.removeprefix("eval_") not in (measures := self.eval_measures()):
            raise ValueError(self._no_such(asked, measures))

    def _no_such(self, asked: str, measures: Sequence[str]) -> str:
        near = nearest(asked.removeprefix("eval_"), measures)
        more = "" if self.args.predict_with_generate else "; predict_with_generate=True adds em, f1 and recall"
        hint = f"; did you mean {near!r}?" if near else ";"
        return (
            f"metric_for_best_model={asked!r} is nothing that an evaluation measures here{hint} "
            f"there are {', '.join(measures)}{more}"
        )

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        try:
            return bool(super()._determine_best_metric(metrics, trial))
        except KeyError as error:
            measures = [name.removeprefix("eval_") for name in metrics if name.startswith("eval_")]
            raise ValueError(self._no_such(str(self.args.metric_for_best_model), measures)) from error

    def stopping(self) -> list[EarlyStoppingCallback]:
        """Return the callbacks that stop early."""
        return [c for c in self.callback_handler.callbacks if isinstance(c, EarlyStoppingCallback)]

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Train as `ResumableTrainer` does."""
        self.check_best_metric()
        for callback in self.stopping():  # transformers lets a second run begin where the first one's count ended.
            callback.early_stopping_patience_counter = 0
        return super().train(resume_from_checkpoint, *args, **kwargs)


def _most_gold(rows: Any) -> int:
    """How many gold passages a row names at most."""
    return max((len(gold or ()) for gold in rows["gold_ids"]), default=0) if "gold_ids" in rows.column_names else 0
