"""Decoder layers compiled one by one: the forward pass around them is Python on texts, where a graph would break."""

from collections.abc import Iterable
from typing import Any

import torch
from accelerate.utils import DynamoBackend, TorchDynamoPlugin
from torch import nn

_MOST_GRAPHS = 64
"""Of all layers together: one for each model, with and without gradients, blocks, continuations and adapters."""


def compile_layers(model: nn.Module, **options: Any) -> None:
    """Compile each decoder layer of a model in place, for any length; layers of a kind share their compiled graphs.

    A call with a cache is left as it was: the cache's length is Python's, and each layer would be a graph of its own.

    Args:
        model: A causal LM of transformers, adapters included.
        options: As in `torch.compile`.

    Raises:
        ValueError: If the model does not say which of its modules are layers.
    """
    names = set(getattr(model, "_no_split_modules", None) or ())
    layers = [module for module in model.modules() if type(module).__name__ in names]
    if not layers:
        raise ValueError(
            f"torch_compile=True: {type(model).__name__} does not say which of its modules are decoder layers "
            "(`_no_split_modules`), and those alone are compiled; set it to False"
        )
    options = {**options, "recompile_limit": _MOST_GRAPHS}
    if options.get("dynamic") is None:
        options["dynamic"] = True
    for layer in layers:
        layer.forward = _unless_cached(layer.forward, torch.compile(layer.forward, **options))


def _unless_cached(plain: Any, compiled: Any) -> Any:
    def forward(*args: Any, **kwargs: Any) -> Any:
        return (compiled if kwargs.get("past_key_values") is None else plain)(*args, **kwargs)

    return forward


def compile_for(accelerator_args: dict[str, Any], models: Iterable[nn.Module]) -> dict[str, Any]:
    """Compile the layers of models as `Accelerator` was to compile all, and return its arguments without that.

    Args:
        accelerator_args: What `Trainer` gives to `Accelerator`, with a `dynamo_plugin`.
        models: Causal LMs; untouched where nothing was to be compiled.

    Raises:
        ValueError: If the weights are sharded by ZeRO-3, or a model does not say which of its modules are layers.
    """
    plugin: TorchDynamoPlugin = accelerator_args["dynamo_plugin"]
    if plugin.backend == DynamoBackend.NO:
        return accelerator_args
    if getattr(accelerator_args.get("deepspeed_plugin"), "zero_stage", None) == 3:
        raise ValueError(
            "torch_compile=True and ZeRO-3 do not go together, since DeepSpeed gathers the weights of each module in "
            "Python, where a layer's graph breaks; set torch_compile=False, or use FSDP2 or ZeRO-2"
        )
    options = {name: value for name, value in plugin.to_dict().items() if name != "use_regional_compilation"}
    for model in models:
        compile_layers(model, **options)
    return {**accelerator_args, "dynamo_plugin": TorchDynamoPlugin(backend=DynamoBackend.NO)}
