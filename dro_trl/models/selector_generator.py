"""The selector and the generator in one module with one forward, which is what one optimizer, DDP and ZeRO ask for."""

import contextlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils.generic import ModelOutput

from dro_trl.lm.older_versions import checkpoint_activations
from dro_trl.models.adapters import AdapterView, recomputing_contexts
from dro_trl.models.answers import AnswerScorer
from dro_trl.models.value_head import ValueHead
from dro_trl.policies.base import SelectionLogps, SelectionPolicy, SelectionSample, check_policy
from dro_trl.policies.gold import gold_sample
from dro_trl.types import Question


@dataclass
class SelectorGeneratorOutput(ModelOutput):
    """What one forward returns. B questions, M selections of K passages, A aliases of up to T tokens."""

    selections: Tensor = None  # type: ignore[assignment]  # ModelOutput wants a default
    """(B, M, K) int64."""
    selector_logps: Tensor = None  # type: ignore[assignment]
    """(B, M) log p_s(z|x) in nats."""
    behavior_logps: Tensor | None = None
    """(B, M) log q(z|x) in nats under the policy that drew the selections; only where this forward drew them."""
    old_logps: Tensor | None = None
    """(B, M), as in `SelectionSample`; only where this forward drew the selections, not independently."""
    leave_one_out: Tensor | None = None
    """(B, M, M), likewise."""
    ref_logps: Tensor | None = None
    """(B, M) log-probabilities under the reference selector; only where asked for."""
    entropy: Tensor = None  # type: ignore[assignment]
    """(B,) estimate of the selector's entropy in nats."""
    answer_logps: Tensor | None = None
    """(B, M, A, T) log-probabilities of the answer's tokens, 0 where padded; only where asked for. Of answers that are
    not worth training: without gradient, or 0 where rewards were known."""
    answer_mask: Tensor | None = None
    """(B, M, A, T) bool."""
    trained_logps: Tensor | None = None
    """(B, L, A, T) as `answer_logps`, of the selections that the generator trains on where these are others."""
    trained_mask: Tensor | None = None
    """(B, L, A, T) bool."""
    state_values: Tensor | None = None
    """(B,) V(x), the reward that the value head expects; only with a value head."""


class SelectorGenerator(nn.Module):
    """A selector and a generator trained together.

    Args:
        selector: A causal LM (or a PEFT model of one) that the policy reads selections off.
        generator: A causal LM (or a PEFT model of one) that answers from the selected passages. Both may be an
            `AdapterView` of one model.
        policy: Turns the selector into a distribution over selections.
        scorer: Prepares the generator's inputs.
        reference: A frozen copy of the selector for the KL term; a PEFT selector needs none, its adapter is disabled.
        value_head: PPO's.
    """

    def __init__(
        self,
        selector: Any,
        generator: Any,
        policy: SelectionPolicy,
        scorer: AnswerScorer,
        reference: nn.Module | None = None,
        value_head: ValueHead | None = None,
    ) -> None:
        super().__init__()
        check_policy(policy)
        if isinstance(selector, AdapterView):
            self.shared = selector.model  # Views are no modules: the weights are registered once.
        self.selector = selector
        self.generator = generator
        self.reference = reference.requires_grad_(False) if reference is not None else None
        self.value_head = value_head
        self.policy = policy
        self.score_weights: nn.Module | None = None
        if policy.score_weights is not None and _is_trained(policy.score_weights):
            self.score_weights = policy.score_weights
        self.scorer = scorer
        self.config: Any = selector.config

    def tie_weights(self) -> None:
        """Tie each model's embeddings again where its config says so: sharding by FSDP2 tears them apart."""
        for model in self.base_models():
            model.tie_weights()

    def base_models(self) -> list[Any]:
        """Return the models without their adapters; one where both are adapters of it."""
        children: Any = [c for c in self.children() if c is not self.value_head and c is not self.score_weights]
        return [child.get_base_model() if hasattr(child, "get_base_model") else child for child in children]

    @property
    def _no_split_modules(self) -> list[str]:
        """What FSDP shards as one unit: each decoder layer, and each model with what is left of it."""
        models = self.base_models()
        layers = {name for model in models for name in getattr(model, "_no_split_modules", None) or ()}
        return sorted(layers | {type(model).__name__ for model in models})

    @property
    def device(self) -> torch.device:
        """Where the models are."""
        return next(self.parameters()).device

    def forward(
        self,
        rows: Sequence[Question],
        selections: Tensor | None = None,
        *,
        inputs: Any = None,
        num_selections: int | None = None,
        generators: Sequence[torch.Generator] | None = None,
        temperature: float = 1.0,
        score_answers: bool = True,
        score_reference: bool = False,
        worth_training: Callable[[SelectorGeneratorOutput], Tensor] | None = None,
        others: Callable[[SelectorGeneratorOutput], Tensor] | None = None,
        gold: bool = False,
        rewarded: bool = False,
        preferred: bool = False,
    ) -> SelectorGeneratorOutput:
        """Score selections under both models, drawing them first where none are given.

        Gradients flow to whichever model has parameters that require them.

        Args:
            rows: B questions with candidates.
            selections: (B, M, K) to score; drawn from the selector where None.
            inputs: What the policy's `encode` made of the rows; made here where None.
            num_selections: M, where they are drawn.
            generators: B random generators, where they are drawn.
            temperature: Of the draw.
            score_answers: Whether to run the generator.
            score_reference: Whether to run the reference selector.
            worth_training: Says of which selections the answers are scored with gradient, (B, M) bool, at least one in
                a row, from what is known without; of all where None.
            others: Says which selections, (B, L, K), the generator trains on in place of these, whose answers are then
                scored without gradient.
            gold: Whether to take each question's gold passages for its only selection, in place of drawing any.
            rewarded: Whether rewards need no answers. Those without gradient are then not scored.
            preferred: Whether to return the selection that the selector prefers, (B, 1, K), and nothing else.

        Raises:
            ValueError: If neither selections nor what it takes to draw them is given.
        """
        inputs = (self.policy.encode(rows) if inputs is None else inputs).to(self.device)
        if preferred:
            return SelectorGeneratorOutput(selections=self.policy.best(self.selector, inputs)[0][:, None])
        scored: SelectionLogps
        with self.value_head.reading(self.selector) if self.value_head else contextlib.nullcontext() as noted:
            if gold:
                scored = gold_sample(self.policy, self.selector, rows, inputs)
            elif selections is not None:
                scored = self.policy.logps(self.selector, inputs, selections)
            else:
                scored = self._drawn(inputs, num_selections, generators, temperature)
        drawn: dict[str, Tensor | None] = {}
        if isinstance(scored, SelectionSample):
            selections = scored.selections
            drawn = {name: getattr(scored, name) for name in ("behavior_logps", "old_logps", "leave_one_out")}
        assert selections is not None
        output = SelectorGeneratorOutput(
            selections=selections,
            selector_logps=scored.logps,
            **drawn,
            ref_logps=self._reference_logps(inputs, selections) if score_reference else None,
            entropy=scored.entropy,
            state_values=self.value_head(noted, self.policy.questions_of(inputs)) if self.value_head else None,
        )
        if score_answers:
            worth = worth_training if torch.is_grad_enabled() else None
            self._score_answers(rows, output, worth, others, rewarded)
        return output

    def _drawn(
        self, inputs: Any, num_selections: int | None, generators: Sequence[torch.Generator] | None, temperature: float
    ) -> SelectionSample:
        """Draw selections; arguments as in `forward`."""
        if num_selections is None or generators is None:
            raise ValueError("give `selections`, or `num_selections` and `generators` to draw them")
        return self.policy.sample(self.selector, inputs, num_selections, generators, temperature)

    def _score_answers(
        self,
        rows: Sequence[Question],
        output: SelectorGeneratorOutput,
        worth_training: Callable[[SelectorGeneratorOutput], Tensor] | None,
        others: Callable[[SelectorGeneratorOutput], Tensor] | None,
        rewarded: bool,
    ) -> None:
        """Add to the output the log-probabilities of answers; arguments as in `forward`."""
        score = partial(self.scorer.logps, self.generator, rows, output.selections)
        if worth_training is None and others is None:
            output.answer_logps, output.answer_mask = score()
            return
        if not rewarded:
            with torch.no_grad():
                output.answer_logps, output.answer_mask = score()
        if others is not None:
            output.trained_logps, output.trained_mask = self.scorer.logps(self.generator, rows, others(output))
            return
        assert worth_training is not None
        wanted, known = worth_training(output), output.answer_logps
        logps, output.answer_mask = score(wanted)
        output.answer_logps = logps if known is None else torch.where(wanted[..., None, None], logps, known)

    @torch.no_grad()
    def _reference_logps(self, inputs: Any, selections: Tensor) -> Tensor:
        with self._reference() as reference:
            return self.policy.logps(reference, inputs, selections).logps

    @contextlib.contextmanager
    def _reference(self) -> Iterator[nn.Module]:
        if self.reference is not None:
            yield self.reference
        elif hasattr(self.selector, "disable_adapter"):
            with self.selector.disable_adapter():
                yield getattr(self, "shared", self.selector)  # A view would switch its adapter on again.
        else:
            raise ValueError(
                "kl_coef > 0 needs a reference selector: pass `reference`, or train the selector with PEFT"
            )

    def activation_checkpointing_enable(
        self, activation_checkpointing_kwargs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """Trade computation for memory in the models that are trained; arguments as in `PreTrainedModel`.

        Raises:
            ValueError: If two adapters on one base are to be recomputed in the reentrant way, which would lose track
                of which of them was in use.
        """
        options = {"use_reentrant": False, **(activation_checkpointing_kwargs or {})}
        models = [self.selector, self.generator]
        if isinstance(self.selector, AdapterView):
            if options["use_reentrant"]:
                raise ValueError("shared_base=True needs use_reentrant=False in activation_checkpointing_kwargs")
            models = [self.shared]
            options["context_fn"] = partial(recomputing_contexts, self.shared)
        for model in models:
            if _is_trained(model):
                checkpoint_activations(model, options, **kwargs)
                model.enable_input_require_grads()

    def gradient_checkpointing_enable(
        self, gradient_checkpointing_kwargs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """Do the same under the name that transformers before 5.23 has for it."""
        self.activation_checkpointing_enable(gradient_checkpointing_kwargs, **kwargs)


def _is_trained(model: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in model.parameters())


def parameter_groups(
    module: nn.Module,
    selector_lr: float,
    generator_lr: float,
    policy_lr: float,
    weight_decay: float,
    decayed: Collection[str],
) -> list[dict[str, Any]]:
    """Return an optimizer's parameter groups: those of each model, with and without weight decay.

    Args:
        module: A `SelectorGenerator`, wrapped or not.
        selector_lr: Learning rate of the selector.
        generator_lr: Learning rate of the generator.
        policy_lr: Learning rate of the policy's weights, which do not decay.
        weight_decay: Of the parameters in `decayed`.
        decayed: Names of the parameters that decay.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            parts = name.split(".")  # The module's own name, or its adapter's, says whose it is.
            lr = policy_lr if "score_weights" in parts else generator_lr if "generator" in parts else selector_lr
            decay = weight_decay if name in decayed and "score_weights" not in parts else 0.0
            groups.setdefault((lr, decay), []).append(parameter)
    return [{"params": group, "lr": lr, "weight_decay": decay} for (lr, decay), group in groups.items()]
