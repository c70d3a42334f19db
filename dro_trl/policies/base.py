"""What a selection policy is."""

import contextlib
import importlib
import inspect
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from dro_trl.lm.attention import Blocks
from dro_trl.lm.packing import SharedPromptBatch
from dro_trl.lm.prompts import DEFAULT, PromptTexts
from dro_trl.lm.tokens import Tokenizer
from dro_trl.names import import_dotted
from dro_trl.options.values import check_values, options_of_call
from dro_trl.policies.item_scores import standardised
from dro_trl.policies.score_weights import ScoreWeights
from dro_trl.types import Question

METHODS = ("encode", "sample", "logps", "best")
"""What a policy must have."""


@dataclass
class SelectionLogps:
    """How likely given selections are. B questions, M selections each."""

    logps: Tensor
    """(B, M) float32, log p_s(z|x) in nats."""
    entropy: Tensor
    """(B,) float32 nats: the mean over the selections of the summed entropies of their K choices, an unbiased
    estimate of the policy's entropy where the selections were drawn from it."""


@dataclass
class SelectionSample(SelectionLogps):
    """Selections drawn from a policy, of K passages each."""

    selections: Tensor
    """(B, M, K) int64, indices of candidates; (B, M, 1) where every passage is taken by itself."""
    behavior_logps: Tensor
    """(B, M) float32 without gradient, log q(z|x) in nats, such that the mean over the M of `p(z) f(z) / q(z)`
    estimates `E_p[f]`: under the tempered policy that they were drawn from, where the draws were independent."""
    old_logps: Tensor | None = None
    """(B, M) float32 without gradient, under the tempered policy; only where the draws were not independent."""
    leave_one_out: Tensor | None = None
    """(B, M, M) float32, likewise: row m weighs what baselines of selection m are averages of."""


@dataclass(frozen=True)
class StatedReading:
    """Lengths in tokens, where no data is at hand."""

    question: int
    """Of the question and the words around it."""
    passage: int
    """Of a passage and the words around it."""
    asked: int
    """Of the question alone."""
    num_candidates: int
    num_selected: int
    num_selections: int


@dataclass(frozen=True)
class Reading:
    """What the selector reads of a question."""

    tokens: int
    """In one row."""
    kept: int
    """Positions at which logits are computed, in all rows."""
    rows: int = 1
    blocks: Blocks | None = None
    """What attention compares, where several continuations share a prompt."""


class SelectionInputs(Protocol):
    """Questions as a policy's other methods take them."""

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt with the longest selection, or passage, that is read behind it."""
        ...

    def to(self, device: torch.device) -> Any:
        """Return the inputs on another device."""
        ...


class SelectionPolicy(Protocol):
    """A distribution over ordered K-subsets of each question's candidates, read off a causal LM.

    Every selection is valid by construction and its log-probability exact. `sample` and `logps` build a graph to the
    model's parameters unless gradients are off. A policy is a subclass with four methods, `encode`, `sample`, `logps`
    and `best`; what follows them has defaults, for a policy to say otherwise.
    """

    tokenizer: Tokenizer
    """The selector's."""
    num_selected: int
    """K."""
    texts: PromptTexts = DEFAULT
    """The words of the prompts."""
    state_pooling: Literal["mean", "first"] = "first"
    """What a value head reads of the positions at which the selector predicts: their mean, or the first where the
    others come after choices."""
    proposal: str = "policy"
    """How selections are drawn for training; `"every_passage"` draws nothing, `"without_replacement"` none twice."""
    writes: bool = False
    """Whether a selection is written token by token, each choice in a forward pass of its own."""
    score_weights: ScoreWeights | None = None
    """What scores are weighed with, where training may learn it."""

    @abstractmethod
    def encode(self, rows: Sequence[Question]) -> Any:
        """Turn B rows into the `SelectionInputs` of the other methods, on the CPU."""

    @abstractmethod
    def sample(
        self,
        model: nn.Module,
        inputs: Any,
        num_selections: int,
        generators: Sequence[torch.Generator],
        temperature: float = 1.0,
    ) -> SelectionSample:
        """Draw M selections for each question, with a CPU random generator for each."""

    @abstractmethod
    def logps(self, model: nn.Module, inputs: Any, selections: Tensor) -> SelectionLogps:
        """Return the log-probabilities of given selections, (B, M, K)."""

    @abstractmethod
    def best(self, model: nn.Module, inputs: Any) -> tuple[Tensor, Tensor]:
        """Return the preferred selection of each question, (B, K), and a score for each passage in it, (B, K)."""

    @property
    def scores_alone(self) -> bool:
        """Whether a passage's score, but for the retriever's prior, does not depend on the other candidates."""
        return False

    @property
    def reads_scores(self) -> bool:
        """Whether the retriever's scores of the candidates count."""
        if self.score_weights is not None:
            return bool(self.score_weights.weight[1] != 0)
        return type(self).prior is not SelectionPolicy.prior

    def own_scores(self, model: nn.Module, inputs: Any) -> list[list[float]]:
        """Return the score of each candidate of each question without the prior, where `scores_alone`.

        Raises:
            ValueError: If the policy does not score passages alone.
        """
        raise ValueError(f"{type(self).__name__} does not score passages by themselves")

    def prior(self, row: Question) -> Tensor:
        """Return what the retriever's scores add to the scores of a row's candidates, (N,) float32."""
        if self.score_weights is None:
            return torch.zeros(len(row["candidates"]))
        return self.score_weights.weight.detach()[1] * standardised(row)

    def questions_of(self, inputs: Any) -> Tensor | None:
        """Return which question each row that the model reads is of, (R,) int64; None where each is of its own."""
        return None

    def packed(self, inputs: Any, selections: Tensor) -> SharedPromptBatch:
        """Return what the selector reads to score given selections, (B, M, K), for estimates of its cost.

        Raises:
            ValueError: If the policy does not say.
        """
        raise ValueError(f"{type(self).__name__} does not say what it reads; give it a method `packed`")

    @classmethod
    def stated_reading(cls, stated: StatedReading, **kwargs: Any) -> Reading:
        """Return what the selector reads of a question of stated lengths, for estimates without data.

        Args:
            stated: The lengths.
            kwargs: The policy's own arguments.

        Raises:
            ValueError: If the policy does not say.
        """
        raise ValueError(f"{cls.__name__} does not say what it reads; give it a method `stated_reading`")


def check_policy(policy: object) -> None:
    """Refuse what lacks something that a `SelectionPolicy` has.

    Raises:
        ValueError: Names it.
    """
    asked = [name for name in (*SelectionPolicy.__annotations__, *vars(SelectionPolicy)) if not name.startswith("_")]
    if missing := [name for name in asked if not hasattr(policy, name)]:
        raise ValueError(
            f"the policy {type(policy).__name__} has no {', '.join(missing)}; make it a subclass of "
            "dro_trl.SelectionPolicy, which has defaults for most"
        )


def check_candidates(rows: Sequence[Question], num_selected: int) -> None:
    """Raise a ValueError naming the first question that has fewer than K candidates."""
    for row in rows:
        if not row["candidates"]:
            raise ValueError(
                f"question {row['question']!r} has no candidates: no passage has a word of it, stopwords aside, or it "
                "was not retrieved for; reword it, or leave it out"
            )
        if len(row["candidates"]) < num_selected:
            raise ValueError(
                f"question {row['question']!r} has {len(row['candidates'])} candidates, fewer than "
                f"num_selected={num_selected}; retrieve more, or lower num_selected"
            )


def check_own(path: str, source: Path) -> None:
    """Refuse to import, for a pair that is loaded, a policy that is not one of dro_trl's.

    Args:
        path: The dotted path that the pair names.
        source: The file that names it.

    Raises:
        ValueError: If the code is another's.
    """
    module, _, name = path.rpartition(".")
    ours = "dro_trl.policies."
    if module == "dro_trl" or module.startswith(ours):
        with contextlib.suppress(ImportError):
            found = getattr(importlib.import_module(module), name, None)
            if found is None or (isinstance(found, type) and found.__module__.startswith(ours)):
                return  # Of what is not there, `load_policy` tells.
    raise ValueError(
        f"{source}: policy {path!r} is code that is not dro_trl's, which loading the pair would import and run; if "
        "you trust it, give trust_remote_code=True (--trust_remote_code)"
    )


def policy_class(path: str) -> Any:
    """Return the subclass of `SelectionPolicy` that a dotted path names.

    Raises:
        ValueError: If there is none, or it lacks a policy's methods.
    """
    example = "for example dro_trl.PlackettLucePolicy"
    found: Any = import_dotted(path, f"policy={path!r} is not the dotted path of a class", example)
    if missing := [method for method in METHODS if not callable(getattr(found, method, None))]:
        raise ValueError(f"policy={path!r} is no policy: it has no {missing[0]}; {example}")
    return found


def load_policy(
    path: str,
    tokenizer: Tokenizer,
    num_selected: int,
    kwargs: dict[str, Any] | None,
    texts: PromptTexts = DEFAULT,
) -> SelectionPolicy:
    """Make the policy that a dotted path names; it is given `texts` where they are not the default.

    Raises:
        ValueError: If there is no such class, or it does not take `kwargs`.
    """
    found = policy_class(path)
    if "num_selected" in (kwargs or {}):
        raise ValueError("policy_kwargs: num_selected is an option of its own; take it out, and set that")
    given = {"num_selected": num_selected, **({} if texts == DEFAULT else {"texts": texts}), **(kwargs or {})}
    try:
        inspect.signature(found).bind(tokenizer, **given)
    except TypeError as error:
        raise ValueError(f"policy_kwargs={kwargs!r} is not what {path} takes: {error}") from error
    given |= check_values(kwargs or {}, options_of_call(found, kwargs or {}), "policy_kwargs")
    policy: SelectionPolicy = found(tokenizer, **given)
    return policy
