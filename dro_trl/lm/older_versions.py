"""What older versions of the libraries lack or call by another name, in one place."""

from inspect import signature
from threading import get_ident
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, TrainingArguments, modeling_utils

_TAKES_POSITIONS = hasattr(modeling_utils, "slice_logits_to_keep")
"""Of transformers 5.21 and later; until then a model takes columns, the same ones in every row."""
_CALLED_ACTIVATION_CHECKPOINTING = hasattr(PreTrainedModel, "activation_checkpointing_enable")
"""Of transformers 5.23 and later; until then it is called gradient checkpointing."""
_LIMITS_RECOMPILES = "recompile_limit" in signature(torch.compile).parameters
"""Not of torch 2.9 to 2.11: there the limit is of the whole process, and is left as it is."""
IS_TORCH_2_9 = str(torch.__version__).startswith("2.9.")


def _numbered_cpu(storage: Any, location: str) -> Any:
    return storage if location.startswith("cpu:") else None


if not _LIMITS_RECOMPILES:  # 2.9 could not read an optimizer for `cpu:0`, as processes on CPUs call their device.
    torch.serialization.register_package(11, lambda storage: None, _numbered_cpu)


class _AllColumns(int):
    """The number 0, which keeps all columns, with the positions that are kept of them."""

    def __new__(cls, positions: Tensor) -> "_AllColumns":
        new = super().__new__(cls, 0)
        new.positions = positions
        return new

    positions: Tensor


def forward_keeping(model: Any, **inputs: Any) -> Any:
    """Call a causal LM for the logits of some positions.

    Args:
        model: Of transformers, adapters included.
        inputs: Of its forward; `logits_to_keep` is (B, L) bool, for logits of (number kept, V), or (B, P) int64
            positions, for logits of (B, P, V).
    """
    if _TAKES_POSITIONS:
        return model(**inputs)
    keep: Tensor = inputs["logits_to_keep"]
    thread = get_ident()

    def take_kept(module: nn.Module, args: tuple[Tensor, ...]) -> Tensor | None:
        if get_ident() != thread:  # A call of another thread, of two models on one base.
            return None
        return args[0][keep] if keep.dtype == torch.bool else torch.take_along_dim(args[0], keep[..., None], dim=1)

    handle = model.get_output_embeddings().register_forward_pre_hook(take_kept, prepend=True)
    try:
        return model(**{**inputs, "logits_to_keep": _AllColumns(keep)})
    finally:
        handle.remove()


def kept_positions(logits_to_keep: Any) -> Any:
    """Return the positions that `forward_keeping` was given, from the argument that the model has got."""
    return getattr(logits_to_keep, "positions", logits_to_keep)


def adopt_checkpointing(args: TrainingArguments) -> None:
    """Make the options on activation checkpointing those that this version of transformers reads."""
    if _CALLED_ACTIVATION_CHECKPOINTING:
        return
    for suffix in ("", "_kwargs"):
        new, old = f"activation_checkpointing{suffix}", f"gradient_checkpointing{suffix}"
        if getattr(args, new) is not None:
            setattr(args, old, getattr(args, new))
        setattr(args, new, getattr(args, old))


def checkpoint_activations(model: Any, options: dict[str, Any], **kwargs: Any) -> None:
    """Have a model compute activations again in the backward pass; arguments as in `PreTrainedModel`."""
    if _CALLED_ACTIVATION_CHECKPOINTING:
        model.activation_checkpointing_enable(activation_checkpointing_kwargs=options, **kwargs)
    else:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options, **kwargs)


def compile_options(most_graphs: int) -> dict[str, Any]:
    """Return the options of `torch.compile` that limit how many graphs it makes of a function."""
    return {"recompile_limit": most_graphs} if _LIMITS_RECOMPILES else {}


def check_recomputed(is_fsdp: bool, args: Any) -> None:
    """Refuse passes that are made again under FSDP by torch 2.9, which does not gather their weights.

    Raises:
        ValueError: If `args` ask for such passes.
    """
    if IS_TORCH_2_9 and is_fsdp and args.scoring_token_budget is not None:
        raise ValueError(
            f"scoring_token_budget={args.scoring_token_budget} under FSDP needs a newer torch than "
            f"{torch.__version__}; leave it unset, or update torch"
        )


def check_compiler(backend: str) -> None:
    """Refuse to compile for the device by torch 2.9: a graph may be called there with sizes that it is not of.

    Args:
        backend: As in `torch_compile_backend`.

    Raises:
        ValueError: If `backend` is "inductor" there.
    """
    if IS_TORCH_2_9 and backend == "inductor":
        raise ValueError(
            f"torch_compile=True needs a newer torch than {torch.__version__}, whose compiled layers end in an error "
            "when the lengths of texts change; set it to False, or update torch"
        )


def multiplies_bfloat16() -> bool:
    """Tell whether the processor multiplies bfloat16 by itself (AVX512-BF16, AMX)."""
    if hasattr(torch.cpu, "get_capabilities"):
        found = torch.cpu.get_capabilities()
        return bool(found.get("avx512_bf16") or found.get("amx_bf16"))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())  # torch 2.9
