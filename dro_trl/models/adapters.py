"""One base model with two LoRA adapters, `selector` and `generator`, trained side by side in one backward pass."""

import contextlib
import copy
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from threading import RLock
from typing import Any
from weakref import WeakKeyDictionary

from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor
from transformers import PreTrainedModel

ADAPTERS = ("selector", "generator")
_SWITCHING: WeakKeyDictionary[Any, RLock] = WeakKeyDictionary()
"""For each shared model, held by the thread that has switched it; apart from the views, which are copied."""


class AdapterView:
    """A model with one of its adapters switched on: used as a model, while the weights stay the shared model's.

    PEFT's own `set_adapter` turns the gradients of all other adapters off. A view only says which adapter the layers
    add, for the time of a call, so that both can be trained on one graph. Calls of several threads take turns.

    Args:
        model: The shared model, which holds an adapter of this name.
        name: The adapter.
    """

    def __init__(self, model: PeftModel, name: str) -> None:
        self.model = model
        self.name = name
        self._layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]

    def __getattr__(self, name: str) -> Any:
        if name in ("model", "_layers"):  # Not there yet while a view is being copied.
            raise AttributeError(name)
        return getattr(self.model, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the shared model with this adapter."""
        with self._active([self.name]):
            return self.model(*args, **kwargs)

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """Generate with this adapter."""
        with self._active([self.name]):
            return self.model.generate(*args, **kwargs)

    def eval(self) -> "AdapterView":
        """Put the shared model in evaluation mode."""
        self.model.eval()
        return self

    def disable_adapter(self) -> contextlib.AbstractContextManager[None]:
        """Leave the shared model without any adapter, as long as the context is open."""
        return self._active([])

    @contextlib.contextmanager
    def _active(self, names: list[str]) -> Iterator[None]:
        with _SWITCHING.setdefault(self.model, RLock()), _active_adapters(self._layers, names):
            yield

    def save_pretrained(self, folder: Path, state_dict: dict[str, Tensor] | None = None) -> None:
        """Write the adapter as an ordinary PEFT folder; PEFT wants the folder to have the adapter's name."""
        assert folder.name == self.name
        self.model.save_pretrained(str(folder.parent), selected_adapters=[self.name], state_dict=state_dict)


@contextlib.contextmanager
def _active_adapters(layers: Sequence[BaseTunerLayer], names: list[str]) -> Iterator[None]:
    before = [layer._active_adapter for layer in layers]
    for layer in layers:
        layer._active_adapter = names
    try:
        yield
    finally:
        for layer, active in zip(layers, before, strict=True):
            layer._active_adapter = active


def share_base(base: PreTrainedModel, peft_config: Any, trained: Mapping[str, bool]) -> dict[str, AdapterView]:
    """Give a model an adapter for each role.

    Args:
        base: The model, which is frozen.
        peft_config: A `LoraConfig`. A role that is not trained has an adapter as well, which changes nothing.
        trained: For each of `ADAPTERS`, whether its weights require gradients.

    Returns:
        The view of each role.

    Raises:
        ValueError: If the config is not one of adapters alone, which two roles could not share a base with.
    """
    if not isinstance(peft_config, LoraConfig):
        raise ValueError(
            f"shared_base=True needs a LoraConfig as peft_config, got {type(peft_config).__name__}: the selector and "
            "the generator are two LoRA adapters on one base (in a recipe, use_peft: true)"
        )
    allowed = {"modules_to_save": (None,), "bias": ("none",), "init_lora_weights": (True, "gaussian")}
    for option, values in allowed.items():
        if getattr(peft_config, option) not in values:
            raise ValueError(
                f"shared_base=True and peft_config.{option}={getattr(peft_config, option)!r} do not "
                f"go together, since that changes the base; use {option}={values[0]!r}, or shared_base=False"
            )
    model: Any = get_peft_model(base, copy.deepcopy(peft_config), adapter_name=ADAPTERS[0])
    model.add_adapter(ADAPTERS[1], copy.deepcopy(peft_config))
    train_roles(model, trained)
    return {name: AdapterView(model, name) for name in ADAPTERS}


def train_roles(model: PeftModel, trained: Mapping[str, bool]) -> None:
    """Let the adapters of the roles that are trained require gradients, and nothing else."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name and any(trained[role] for role in ADAPTERS if f".{role}" in name))


def recomputing_contexts(model: PeftModel) -> tuple[Any, Any]:
    """Return what activation checkpointing computes a layer in, at first and again: with the same adapter both times.

    For the `context_fn` of `torch.utils.checkpoint.checkpoint`.
    """
    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    active: Any = layers[0]._active_adapter
    return contextlib.nullcontext(), _active_adapters(layers, active)
