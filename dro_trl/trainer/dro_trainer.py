"""The trainer: estimation step, maximization step, logging and saving; the maths is in `dro_trl.losses`."""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import EarlyStoppingCallback, PreTrainedModel, TrainerCallback, set_seed

from dro_trl.lm.logps import reduce_answer_logps
from dro_trl.lm.tokens import Tokenizer
from dro_trl.lm.turns import saved_turns
from dro_trl.losses import loss_types
from dro_trl.losses.base import ScoredSelections
from dro_trl.losses.dro import dro_loss, worth_training
from dro_trl.losses.without_draws import likeliest
from dro_trl.models.answers import answer_selections
from dro_trl.models.selector_generator import SelectorGenerator, SelectorGeneratorOutput, parameter_groups
from dro_trl.policies.base import SelectionPolicy
from dro_trl.policies.randomness import random_generator
from dro_trl.retrieval.base import Retriever
from dro_trl.rewards.calls import RewardFunc, RewardSum, reward_columns
from dro_trl.rewards.likelihood import AnswerLogLikelihood
from dro_trl.trainer.building import load_tokenizers, make_pair
from dro_trl.trainer.dataset import prepare_dataset, prepare_sets
from dro_trl.trainer.dro_config import DROConfig
from dro_trl.trainer.log_table import show_table
from dro_trl.trainer.monitoring import Monitor, step_metrics
from dro_trl.trainer.sampler import EstimationSampler
from dro_trl.trainer.searching import SearchingTrainer, check_sources, start_of
from dro_trl.trainer.starts import learnt_start, load_starts
from dro_trl.trainer.workers import Collator, ReadAhead, useful_workers
from dro_trl.types import Question

logger = logging.getLogger(__name__)

Batch = dict[str, Any]
"""`rows`, `draw` (the number that random draws depend on), `inputs` where they were encoded ahead, and, off-policy,
what the estimation step found out: `selections`, `behavior_logps`, `rewards`, `ref_logps` and `old_values`, and
`old_logps` and `leave_one_out` where draws were not independent."""


class DROTrainer(SearchingTrainer):
    """Trains a selector and a generator by Direct Retrieval-augmented Optimization (arXiv:2505.03075).

    Args:
        model: The selector: a causal LM, its name or folder, an adapter's, or that of a finished pair to go on with.
        generator: The generator, likewise; the pair's, or a second copy of the selector's start where None.
        args: Options.
        train_dataset: Rows with `question`, `answers`, `candidates` and optionally `gold_ids`; other columns go to the
            reward functions.
        eval_dataset: Rows of the same kind, or several sets of them by name, each of which is measured by itself.
        processing_class: The selector's tokenizer; loaded beside the model where None.
        generator_processing_class: The generator's; loaded beside it where None.
        reward_funcs: One or several rewards (see `RewardFunc`); the answer's log-likelihood where None.
        retriever: Finds `args.num_candidates` candidates for datasets that have none.
        policy: The selection policy; made from `args.policy` where None.
        peft_config: Adapter of each model that is trained, put there or gone on with; full fine-tuning where None.
        callbacks: As in `transformers.Trainer`.
        optimizers: As in `transformers.Trainer`.
        model_init: In place of `model` and `generator`, for `hyperparameter_search`: returns the first, or both, anew.
            It may take the trial as an argument, which is None before a search.

    Raises:
        ValueError: If a row or an option is not valid; the message names it.
    """

    args: DROConfig
    train_dataset: Any

    def __init__(
        self,
        model: str | PreTrainedModel | None = None,
        generator: str | PreTrainedModel | None = None,
        args: DROConfig | None = None,
        train_dataset: Dataset | None = None,
        eval_dataset: Dataset | dict[str, Dataset] | None = None,
        processing_class: Tokenizer | None = None,
        generator_processing_class: Tokenizer | None = None,
        reward_funcs: RewardFunc | list[RewardFunc] | None = None,
        retriever: Retriever | None = None,
        policy: SelectionPolicy | None = None,
        peft_config: Any | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        model_init: Callable[..., Any] | None = None,
    ) -> None:
        args = args or DROConfig("dro-output")
        check_sources(model, model_init, optimizers, train_dataset)
        set_seed(args.seed)  # New adapters are random, and made before Trainer seeds anything.
        self._make = partial(
            self._make_parts,
            given=(train_dataset, eval_dataset, retriever),
            tokenizers=(processing_class, generator_processing_class),
            reward_funcs=reward_funcs,
            policy=policy,
            peft_config=peft_config,
        )
        selector, other = start_of(model_init, None, args.seed) if model_init else (model, generator)
        pair, rows, held_out = self._make(model=selector, generator=other, args=args)
        if args.early_stopping_patience is not None:
            stopping = EarlyStoppingCallback(args.early_stopping_patience, args.early_stopping_threshold)
            callbacks = [*(callbacks or []), stopping]
        super().__init__(
            model=pair,
            args=args,
            data_collator=Collator(rows, pair.policy, ahead=args.on_policy),
            train_dataset=rows,
            eval_dataset=held_out,
            processing_class=self.tokenizers["selector"],
            callbacks=callbacks,
            optimizers=optimizers,
        )
        self.model_init: Any = model_init
        self.model_accepts_loss_kwargs = False  # compute_loss averages over questions; Trainer over accumulation.
        self.monitor = Monitor(args, self.model.base_models())
        show_table(self)

    def _make_parts(
        self,
        model: Any,
        generator: Any,
        args: DROConfig,
        given: tuple[Any, Any, Retriever | None],
        tokenizers: tuple[Tokenizer | None, Tokenizer | None],
        reward_funcs: Any,
        policy: SelectionPolicy | None,
        peft_config: Any | None,
    ) -> tuple[SelectorGenerator, Dataset | None, Any]:
        """Return the pair, and the rows to train and to evaluate on; keep what else the options decide."""
        if reward_funcs is None:
            reward_funcs = AnswerLogLikelihood(args.likelihood_reduction, args.likelihood_aliases)
        self.reward_sum = RewardSum(reward_funcs, args.reward_weights)
        starts = load_starts(model, generator or args.generator_name_or_path, args, peft_config)
        self._start = {role: start.name for role, start in starts.items()}
        self.tokenizers = load_tokenizers(starts, args, *tokenizers)
        self._policy_path = args.policy if policy is None else None
        aliases = {args.likelihood_aliases, *(getattr(func, "aliases", "first") for func in self.reward_sum.funcs)}
        self._learnt_start = learnt_start(model, self._policy_path, args)
        pair = make_pair(starts, self.tokenizers, args, policy, peft_config, aliases != {"first"}, self._learnt_start)
        train_dataset, eval_dataset, retriever = given
        options: Any = {"retriever": retriever, "tokenizer": pair.scorer.tokenizer, "args": args, "pair": pair}
        held_out = prepare_sets(eval_dataset, "eval_dataset", **options)
        return pair, prepare_dataset(train_dataset, "train_dataset", training=True, **options), held_out

    def rebuild(self, trial: Any) -> SelectorGenerator:
        """Make both models, the rows and all that depends on the options anew, and return the pair."""
        model, generator = start_of(self.model_init, trial, self.args.seed)
        pair, rows, self.eval_dataset = self._make(model=model, generator=generator, args=self.args)
        self.train_dataset, self.processing_class = rows, self.tokenizers["selector"]
        self.data_collator = Collator(rows, pair.policy, ahead=self.args.on_policy)
        self.monitor = Monitor(self.args, pair.base_models())
        vars(self).pop("_eval_dataloaders", None)  # Of the rows before.
        return pair

    # Data

    @property
    def _slices(self) -> int:
        """Micro-batches in the rows of one estimation step."""
        return 1 if self.args.on_policy else self.args.steps_per_estimation * self.args.gradient_accumulation_steps

    def get_train_dataloader(self) -> Any:
        """Return batches of row numbers: all those of an estimation step, once for each micro-step that it serves."""
        if self.train_dataset is None:
            raise ValueError("training needs a train_dataset; pass one to DROTrainer")
        self._estimation: dict[str, Any] = {"indices": [], "uses_left": 0, "parts": []}  # Of these batches, no others.
        return self._get_dataloader(
            # Rows are fetched a micro-batch at a time, since those of an estimation step may be the whole dataset.
            dataset=range(len(self.train_dataset)),
            description="Training",
            batch_size=self._train_batch_size * self._slices,
            sampler_fn=self._get_train_sampler,
            is_training=True,
        )

    def useful_workers(self) -> int:
        """Return how many workers training can use."""
        asked, method = self.args.dataloader_num_workers, self.args.dataloader_multiprocessing_context
        assert isinstance(self.data_collator, Collator)
        return useful_workers(self.data_collator, asked, method)

    def _get_train_sampler(self, train_dataset: Any = None) -> EstimationSampler:
        num_rows, processes = len(train_dataset or self.train_dataset), self.accelerator.num_processes
        return EstimationSampler.of_run(
            self.args, num_rows, self._slices, processes, step=lambda: self.state.global_step
        )

    # Estimation step

    def _prepare_inputs(self, inputs: Any) -> Batch:
        """Return a micro-batch; sample and score selections first where that is done ahead of training."""
        if not self.model.training:
            return {"rows": inputs, "draw": 0}
        if isinstance(inputs[0], ReadAhead):
            return {"rows": inputs[0].rows, "inputs": inputs[0].inputs, "draw": self.state.global_step}
        size = self._train_batch_size

        def micro_batch(at: int) -> Batch:
            rows = [self.train_dataset[i] for i in inputs[at * size : (at + 1) * size]]
            return {"rows": rows, "draw": self.state.global_step}

        if self.args.on_policy:
            return micro_batch(0)
        if not self._estimation["uses_left"] or self._estimation["indices"] != inputs:
            self._estimation = {
                "indices": inputs,
                "uses_left": self._slices * self.args.num_iterations,
                "parts": [self.estimate(self.model_wrapped, micro_batch(at)) for at in range(self._slices)],
            }
        at = -self._estimation["uses_left"] % self._slices
        self._estimation["uses_left"] -= 1
        return {**micro_batch(at), **self._estimation["parts"][at]}

    @torch.no_grad()
    def estimate(self, model: nn.Module, batch: Batch) -> Batch:
        """Draw selections for each question and reward them: the estimation step.

        Args:
            model: The composite module, wrapped or not.
            batch: `rows`, and `draw`, the number that the random draws depend on.

        Returns:
            What to add to the batch: `selections`, `behavior_logps`, `rewards`; `ref_logps`, `old_values` if needed.
        """
        output = self._forward(model, batch)
        return {
            "selections": output.selections,
            **self._drawn(output),
            "rewards": self.rewards(batch["rows"], output),
            "ref_logps": output.ref_logps,
            "old_values": output.state_values,
        }

    def _forward(self, model: nn.Module, batch: Batch) -> SelectorGeneratorOutput:
        args, estimated = self.args, "rewards" in batch
        output: SelectorGeneratorOutput = model(
            rows=batch["rows"],
            inputs=batch.get("inputs"),
            selections=batch.get("selections"),
            num_selections=args.num_selections,
            generators=[random_generator(args.seed, batch["draw"], row["question"]) for row in batch["rows"]],
            temperature=args.temperature,
            score_answers=args.train_generator or (self.reward_sum.names("answer_logps") and not estimated),
            score_reference=args.kl_coef > 0 and args.train_selector and not estimated,
            worth_training=partial(self._worth_training, batch) if args.min_generator_weight else None,
            others=self._likeliest if args.loss_type == "emdr2" and args.train_generator else None,
            gold=args.loss_type == "supervised",
            rewarded=estimated or not self.reward_sum.names("answer_logps"),
        )
        return output

    def _worth_training(self, batch: Batch, output: SelectorGeneratorOutput) -> Tensor:
        """Which selections the generator trains on, (B, M) bool; notes in the batch how they are rewarded."""
        if "rewards" not in batch:
            batch |= {"rewards": self.rewards(batch["rows"], output), **self._drawn(output)}
        weight = self.weights(self._scored(output, batch))
        worth = worth_training(weight, output.selections, self.args.min_generator_weight)
        self._record({"left_out_weight": (weight * ~worth).sum(-1)})
        return worth

    def _likeliest(self, output: SelectorGeneratorOutput) -> Tensor:
        return likeliest(output.selections, output.selector_logps, self.args.num_selected)

    @staticmethod
    def _drawn(output: SelectorGeneratorOutput) -> dict[str, Tensor]:
        """What the draw of the selections says of them."""
        return {name: output[name] for name in ("behavior_logps", "old_logps", "leave_one_out") if name in output}

    @staticmethod
    def _scored(output: SelectorGeneratorOutput, batch: Batch) -> ScoredSelections:
        return ScoredSelections(
            logps=output.selector_logps,
            log_ratios=output.selector_logps.detach() - batch["behavior_logps"],
            rewards=batch["rewards"],
            ref_logps=batch.get("ref_logps", output.ref_logps),
            values=output.state_values,
            old_values=batch.get("old_values", output.state_values),
            old_logps=batch.get("old_logps"),
            leave_one_out=batch.get("leave_one_out"),
        )

    def rewards(self, rows: Sequence[Question], output: SelectorGeneratorOutput) -> Tensor:
        """Return the weighted sum of the rewards of each selection, (B, M), without gradient."""
        columns: dict[str, Any] = reward_columns(rows, output.selections.tolist())
        columns["trainer_state"] = self.state
        if output.answer_logps is not None and output.answer_mask is not None:
            columns["answer_logps"] = output.answer_logps.detach().flatten(0, 1)
            columns["answer_mask"] = output.answer_mask.flatten(0, 1)
        if self.reward_sum.names("generated_answers"):
            generator, tokenizer = self._answering, self.tokenizers["generator"]
            options = (self.args.texts, self.args.max_thinking_tokens)
            columns["generated_answers"] = answer_selections(generator, tokenizer, columns, *options)
        total, by_name = self.reward_sum(columns)
        self._record(by_name)
        return total.to(output.selections.device).view(output.selections.shape[:2])

    # Maximization step

    def compute_loss(
        self, model: nn.Module, inputs: Batch, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the loss of a micro-batch: one forward of both models, then weights and losses."""
        output, rows = self._forward(model, inputs), inputs["rows"]
        if 0 < inputs.get("counted", 0) < len(rows):
            rows = rows[: inputs["counted"]]
            output = type(output)(**{name: value[: len(rows)] for name, value in output.items()})
        if "rewards" not in inputs:
            inputs = inputs | {"rewards": self.rewards(rows, output), **self._drawn(output)}
        rewards, scored = inputs["rewards"], self._scored(output, inputs)
        weight = self.weights(scored)
        loss = self.loss(output, scored, weight)
        step = step_metrics(rows, output, scored, loss_types.log_weights(scored, self.args))
        self._record({"loss": loss.detach().expand(len(rewards)), **step, **self._learnt_metrics()})
        if self.model.training:
            self.monitor.watch(rows, output, rewards, weight, step)
        return (loss, {"loss": loss.detach()}) if return_outputs else loss

    def weights(self, scored: ScoredSelections) -> Tensor:
        """Return what each selection weighs, (B, M) without gradient, each row summing to 1."""
        return loss_types.selection_weights(scored, self.args)

    def loss(self, output: SelectorGeneratorOutput, scored: ScoredSelections, weight: Tensor) -> Tensor:
        """Return the loss of both models, a scalar.

        Args:
            output: What the models make of the selections.
            scored: The selections with their log-probabilities and rewards.
            weight: (B, M), what `weights` returned.
        """
        args = self.args
        total = scored.logps.new_zeros(())
        if args.train_selector:
            total = total + loss_types.selector_loss(scored, weight, args)
        if args.train_generator:
            tokens, mask = output.answer_logps, output.answer_mask
            if output.trained_logps is not None:
                tokens, mask, weight = output.trained_logps, output.trained_mask, torch.ones_like(weight[:, :1])
            assert tokens is not None
            assert mask is not None
            answer_logps = reduce_answer_logps(tokens, mask, args.likelihood_reduction, args.likelihood_aliases)
            total = total + args.generator_loss_coef * dro_loss(answer_logps, weight)
        return total

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Make one optimizer with a learning rate for each model."""
        args, module = self.args, model or self.model
        if self.optimizer is None:
            cls, kwargs = self.get_optimizer_cls_and_kwargs(args, module)  # type: ignore[arg-type]
            decayed = self.get_decay_parameter_names(module)
            generator_lr = args.learning_rate if args.generator_learning_rate is None else args.generator_learning_rate
            rates = args.learning_rate, generator_lr, args.policy_learning_rate
            groups = parameter_groups(module, *rates, args.weight_decay, decayed)
            self.optimizer = cls(groups, **kwargs)
        return self.optimizer

    # Logging

    def _record(self, values: dict[str, Tensor]) -> None:
        (self.monitor.train if self.model.training else self.monitor.eval).add(values)

    def _learnt_metrics(self) -> dict[str, Tensor]:
        weights = self.accelerator.unwrap_model(self.model).score_weights
        return weights.metrics() if weights is not None else {}

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, beside Trainer's own values, the means of what the steps since the last log recorded."""
        if self.model.training:
            logs.update(self.monitor.take(self.state))
        super().log(logs, start_time)
        if self.model.training and self.is_world_process_zero():
            self.monitor.show(self.state.global_step)

    # Resuming

    def run_facts(self) -> dict[str, Any]:
        """Return what makes this run what it is, beside its options and rows."""
        trained = sum(parameter.requires_grad for parameter in self.model.parameters())
        facts = {"start": self._start, "policy": self._policy_path, "trained_tensors": trained}
        return {**facts, "turns": saved_turns(self.tokenizers)}

    def pending_state(self) -> dict[str, Any]:
        """Return this process's part of what is between two steps."""
        known = self.accelerator.unwrap_model(self.model).scorer.known
        counts = [callback.early_stopping_patience_counter for callback in self.stopping()]
        state = {"estimation": self._estimation, "early_stopping": counts, **self.monitor.pending()}
        return state if known is None else {**state, "known_answers": known.state()}

    def restore_pending_state(self, state: dict[str, Any]) -> None:
        """Take up what `pending_state` returned."""
        self._estimation = state["estimation"]
        self.monitor.restore(state)
        for callback, count in zip(self.stopping(), state.get("early_stopping", ()), strict=False):
            callback.early_stopping_patience_counter = count
        if "known_answers" in state:
            self.accelerator.unwrap_model(self.model).scorer.known.restore(state["known_answers"])
