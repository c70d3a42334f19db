"""Decoder layers compiled one by one: the forward pass around them is Python on texts, where a graph would break."""

from collections.abc import Callable, Iterable
from types import MethodType
from typing import Any

import torch
from accelerate.utils import DynamoBackend, TorchDynamoPlugin
from torch import nn
from transformers import Cache

from dro_trl.lm.key_values import KeyValues
from dro_trl.lm.older_versions import check_compiler, compile_options

_MOST_GRAPHS = 64
"""Of all layers together: one for each model, with and without gradients, blocks, continuations and adapters."""


class _Compiler:
    """Compiles what layers compute, once for all of a class."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._options = options
        self._known: dict[Any, Callable[..., Any]] = {}

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        if function not in self._known:
            self._known[function] = torch.compile(function, **self._options)
        return self._known[function]


def _forward(self: Any, *args: Any, **kwargs: Any) -> Any:
    # FSDP2 gives a layer a class of its own after this was put in its place.
    plain = type(self).forward
    cache = kwargs.get("past_key_values")
    if isinstance(cache, KeyValues):
        # The layer's own part alone: its number among the layers would make a graph of each.
        kwargs["past_key_values"] = cache.of(self._number)
    elif any(isinstance(value, Cache) for value in (*args, *kwargs.values())):
        return plain(self, *args, **kwargs)
    return self._compiler(plain)(self, *args, **kwargs)


def compile_layers(model: nn.Module, **options: Any) -> None:
    """Compile each decoder layer of a model in place, for any length; layers of a kind share their compiled graphs.

    A call with another cache than `KeyValues` is left as it was: its length is Python's, and each layer would be a
    graph of its own.

    Args:
        model: A causal LM of transformers, adapters included.
        options: As in `torch.compile`; `dynamic` is always true.

    Raises:
        ValueError: If the model does not say which of its modules are layers.
    """
    names = set(getattr(model, "_no_split_modules", None) or ())
    layers: list[Any] = [module for module in model.modules() if type(module).__name__ in names]
    if not layers:
        raise ValueError(
            f"torch_compile=True: {type(model).__name__} does not say which of its modules are decoder layers "
            "(`_no_split_modules`), and those alone are compiled; set it to False"
        )
    compiler = _Compiler({**options, "dynamic": True, **compile_options(_MOST_GRAPHS)})
    for number, layer in enumerate(layers):
        layer._compiler, layer._number = compiler, number
        layer.forward = MethodType(_forward, layer)


def compile_for(accelerator_args: dict[str, Any], models: Iterable[nn.Module]) -> dict[str, Any]:
    """Compile the layers of models as `Accelerator` was to compile all, and return its arguments without that.

    Args:
        accelerator_args: What `Trainer` gives to `Accelerator`, with a `dynamo_plugin`.
        models: Causal LMs; untouched where nothing was to be compiled.

    Raises:
        ValueError: If the weights are sharded by ZeRO-3, a model does not say which of its modules are layers, or this
            torch cannot.
    """
    plugin: TorchDynamoPlugin = accelerator_args["dynamo_plugin"]
    if plugin.backend == DynamoBackend.NO:
        return accelerator_args
    if getattr(accelerator_args.get("deepspeed_plugin"), "zero_stage", None) == 3:
        raise ValueError(
            "torch_compile=True and ZeRO-3 do not go together, since DeepSpeed gathers the weights of each module in "
            "Python, where a layer's graph breaks; set torch_compile=False (and no --dynamo_backend of accelerate "
            "launch), or use FSDP2 or ZeRO-2"
        )
    check_compiler(plugin.backend.value.lower())
    options = {name: value for name, value in plugin.to_dict().items() if name != "use_regional_compilation"}
    for model in models:
        compile_layers(model, **options)
    return {**accelerator_args, "dynamo_plugin": TorchDynamoPlugin(backend=DynamoBackend.NO)}
