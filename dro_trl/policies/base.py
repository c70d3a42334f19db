"""What a selection policy is."""

import contextlib
import importlib
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from dro_trl.lm.prompts import DEFAULT, PromptTexts, Tokenizer
from dro_trl.options.values import check_values, options_of_call
from dro_trl.types import Question

METHODS = ("sample", "logps", "best")
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
    """(B, M, K) int64, indices of candidates."""
    behavior_logps: Tensor
    """(B, M) float32, log q(z|x) in nats under the tempered policy they were drawn from, without gradient."""


class SelectionPolicy(Protocol):
    """A distribution over ordered K-subsets of each question's candidates, read off a causal LM.

    Every selection is valid by construction and its log-probability exact. `sample` and `logps` build a graph to the
    model's parameters unless gradients are off.
    """

    num_selected: int
    """K."""
    state_pooling: str
    """What a value head reads of the positions at which the selector predicts: their `"mean"`, or the `"first"` where
    the others come after choices. `"first"` where a policy does not say."""

    def encode(self, rows: Sequence[Question]) -> Any:
        """Turn B rows into the inputs of the other methods, on the CPU; the result has a `.to(device)`."""
        ...

    def sample(
        self,
        model: nn.Module,
        inputs: Any,
        num_selections: int,
        generators: Sequence[torch.Generator],
        temperature: float = 1.0,
    ) -> SelectionSample:
        """Draw M selections for each question, with a CPU random generator for each."""
        ...

    def logps(self, model: nn.Module, inputs: Any, selections: Tensor) -> SelectionLogps:
        """Return the log-probabilities of given selections, (B, M, K)."""
        ...

    def best(self, model: nn.Module, inputs: Any) -> tuple[Tensor, Tensor]:
        """Return the preferred selection of each question, (B, K), and a score for each passage in it, (B, K)."""
        ...


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
    module, _, name = path.rpartition(".")
    try:
        policy_class = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"policy={path!r} is not the dotted path of a class ({error}); for example dro_trl.PlackettLucePolicy"
        ) from error
    if missing := [method for method in METHODS if not callable(getattr(policy_class, method, None))]:
        raise ValueError(
            f"policy={path!r} is no policy: it has no {missing[0]}; for example dro_trl.PlackettLucePolicy"
        )
    if "num_selected" in (kwargs or {}):
        raise ValueError("policy_kwargs: num_selected is an option of its own; take it out, and set that")
    given = {"num_selected": num_selected, **({} if texts == DEFAULT else {"texts": texts}), **(kwargs or {})}
    try:
        inspect.signature(policy_class).bind(tokenizer, **given)
    except TypeError as error:
        raise ValueError(f"policy_kwargs={kwargs!r} is not what {path} takes: {error}") from error
    given |= check_values(kwargs or {}, options_of_call(policy_class, kwargs or {}), "policy_kwargs")
    policy: SelectionPolicy = policy_class(tokenizer, **given)
    return policy
