"""LoRA layers in a third of the operations: the base's product and the adapter's in one node of the graph.

PEFT's layer is a chain of modules, each an operation and several views, and more of them in the backward pass: seven
such layers in each decoder layer are most of what a GPU is asked to do, whatever their size.
"""

from types import MethodType
from typing import Any

import torch
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class _Joined(torch.autograd.Function):
    """`x W^T + bias + scaling x A^T B^T` for a frozen W."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        a: Tensor,
        b: Tensor,
        scaling: float,
        dtype: torch.dtype,
    ) -> Tensor:
        rows, weight, a, b = (part.to(dtype) for part in (x.flatten(0, -2), weight, a, b))
        low = rows.mm(a.t())
        found = nn.functional.linear(rows, weight, None if bias is None else bias.to(dtype))
        found.addmm_(low, b.t(), alpha=scaling)
        ctx.save_for_backward(rows, weight, a, b, low)
        ctx.scaling = scaling
        return found.view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight, a, b, low = ctx.saved_tensors
        flat = grad.flatten(0, -2)
        of_low = flat.mm(b)
        of_x = of_a = of_b = None
        if ctx.needs_input_grad[0]:
            of_x = flat.mm(weight).addmm_(of_low, a, alpha=ctx.scaling).view(*grad.shape[:-1], -1)
        # With beta=0 the first argument gives the result its shape alone.
        if ctx.needs_input_grad[3]:
            of_a = torch.addmm(a, of_low.t(), rows, beta=0, alpha=ctx.scaling)
        if ctx.needs_input_grad[4]:
            of_b = torch.addmm(b, flat.t(), low, beta=0, alpha=ctx.scaling)
        return of_x, None, None, of_a, of_b, None, None


def join_lora(model: nn.Module) -> None:
    """Have a model's LoRA layers compute their sum at once, wherever a layer is no more than that.

    One with dropout, several active adapters, a quantised or trained base, or hooks on its parts, as ZeRO-3 gathers
    weights, goes PEFT's own way, as does what is compiled.

    Args:
        model: A PEFT model; without LoRA layers it is left as it is.
    """
    layers: Any = (module for module in model.modules() if type(module) is LoraLinear)
    for layer in layers:
        layer.forward = MethodType(_forward, layer)


def _forward(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    name = None if args or kwargs or torch.compiler.is_compiling() else _only_adapter(self)
    dtype = None if name is None else _dtype(self, name, x)
    if name is None or dtype is None:
        found: Tensor = type(self).forward(self, x, *args, **kwargs)
        return found
    base, a, b = self.base_layer, self.lora_A[name].weight, self.lora_B[name].weight
    joined: Tensor = _Joined.apply(x, base.weight, base.bias, a, b, self.scaling[name], dtype)
    return joined


def _only_adapter(layer: Any) -> str | None:
    """The adapter that is added to a frozen matrix, None where anything else is done."""
    names = [name for name in layer.active_adapters if name in layer.lora_A]
    if layer.disable_adapters or layer.merged or len(names) != 1 or names[0] in layer.lora_variant:
        return None
    base, a, b = layer.base_layer, layer.lora_A[names[0]], layer.lora_B[names[0]]
    dropout = layer.lora_dropout[names[0]]
    drops = isinstance(dropout, nn.Dropout) and dropout.p > 0 and dropout.training
    hooked = any(part._forward_pre_hooks or part._forward_hooks for part in (base, a, b))
    trained = any(parameter.requires_grad for parameter in base.parameters())
    if type(base) is not nn.Linear or b.bias is not None or drops or hooked or trained:
        return None
    return str(names[0])


def _dtype(layer: Any, name: str, x: Tensor) -> torch.dtype | None:
    """The number format that all is computed in, None where it is not one."""
    if torch.is_autocast_enabled(x.device.type):
        return torch.get_autocast_dtype(x.device.type)
    dtypes = {x.dtype, layer.base_layer.weight.dtype, layer.lora_A[name].weight.dtype, layer.lora_B[name].weight.dtype}
    return x.dtype if len(dtypes) == 1 else None
