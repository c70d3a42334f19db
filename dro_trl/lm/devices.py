"""Where models run and in which number format: chosen by what the machine has, or as is said."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from transformers.utils.import_utils import is_torch_bf16_gpu_available

from dro_trl.lm.older_versions import multiplies_bfloat16

AUTO = "auto"
DTYPES = ("float32", "bfloat16", "float16")
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Hardware:
    """What a machine has to run models on."""

    accelerator: str | None = None
    """Its type as PyTorch calls it, such as `cuda`; None where there is none."""
    names: tuple[str, ...] = ()
    """Of its devices, one each."""
    bfloat16: bool = False
    """Whether the accelerator multiplies bfloat16 by itself, not by emulation."""
    processor_bfloat16: bool = False
    """Whether the processor does (AVX512-BF16, AMX): a step then takes half the time; without, it takes longer."""


@cache
def find_hardware() -> Hardware:
    """Return what this machine has."""
    native = multiplies_bfloat16()
    if not torch.accelerator.is_available():
        return Hardware(processor_bfloat16=native)
    kind, count = torch.accelerator.current_accelerator().type, torch.accelerator.device_count()  # type: ignore[union-attr]
    module = torch.get_device_module(kind)
    names = tuple(str(getattr(module, "get_device_name", lambda _: kind)(i)) for i in range(count))
    if kind == "cuda":
        bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
    else:  # Apple's older chips emulate it, and do not say so.
        bfloat16 = kind != "mps" and is_torch_bf16_gpu_available()
    return Hardware(kind, names, bfloat16, native)


def choose_device(wanted: str | torch.device, hardware: Hardware | None = None) -> torch.device:
    """Return the device to run on.

    Args:
        wanted: `auto` (an accelerator where there is one), `cpu`, or a device as PyTorch names it, such as `cuda:1`.
        hardware: What there is; this machine's where None.

    Raises:
        ValueError: If there is no such device.
    """
    found = hardware or find_hardware()
    name, there = str(wanted), f"{found.accelerator or ''}:0"
    if name == AUTO:
        return torch.device(there) if found.names else CPU
    if name == "cpu":
        return CPU
    known = [found.accelerator] if found.names else []
    matched = re.fullmatch(r"([a-z]+)(?::(\d+))?", name)
    if matched and matched[1] in known and int(matched[2] or 0) < len(found.names):
        return torch.device(name)
    if found.names:
        there += f" to {found.accelerator}:{len(found.names) - 1}" if len(found.names) > 1 else ""
    raise ValueError(
        f"device={name!r} is not one of this machine, which has {f'cpu and {there}' if found.names else 'only cpu'}; "
        "use one of these, or auto"
    )


def choose_dtype(wanted: str | torch.dtype, device: torch.device, hardware: Hardware | None = None) -> torch.dtype:
    """Return the number format to run in.

    Args:
        wanted: `auto` (bfloat16 where the device multiplies it by itself, else float32), or one such as `DTYPES`.
        device: What `choose_device` returned.
        hardware: What there is; this machine's where None.

    Raises:
        ValueError: If it is none of these.
    """
    name = str(wanted).removeprefix("torch.")
    if name == AUTO:
        return torch.bfloat16 if has_bfloat16(device, hardware) else torch.float32
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point or dtype.itemsize == 1:
        raise ValueError(f"dtype={name!r} is no number format of weights; use one of {', '.join((AUTO, *DTYPES))}")
    return dtype


def name_of(dtype: torch.dtype) -> str:
    """Return a number format's name as options have it, such as `bfloat16`."""
    return str(dtype).removeprefix("torch.")


def choose_trained_dtype(
    wanted: str | torch.dtype, device: torch.device, adapters: bool, hardware: Hardware | None = None
) -> torch.dtype:
    """Return the format of the weights that training starts from; arguments as in `choose_dtype`.

    `auto` is float32 where all weights are trained, since bfloat16 would lose their small updates. Under adapters,
    which are in float32 themselves, it is as in `choose_dtype`; but float32 where FSDP, or DeepSpeed on a CPU, divides
    the weights, which wants them in one format.
    """
    divided = launched_with("FSDP") or (device.type == "cpu" and launched_with("DEEPSPEED"))
    if str(wanted) == AUTO and (not adapters or divided):
        return torch.float32
    return choose_dtype(wanted, device, hardware)


def has_bfloat16(device: torch.device, hardware: Hardware | None = None) -> bool:
    """Whether a device multiplies bfloat16 by itself."""
    found = hardware or find_hardware()
    return found.processor_bfloat16 if device.type == "cpu" else found.bfloat16


def launched_with(backend: str) -> bool:
    """Whether `accelerate launch` asked for `DEEPSPEED` or `FSDP`."""
    return os.environ.get(f"ACCELERATE_USE_{backend}", "false").lower() == "true"


def describe(device: torch.device, dtype: torch.dtype, hardware: Hardware | None = None) -> str:
    """Say where models run: "on cuda:0 (NVIDIA H100) in bfloat16", "on the CPU in float32"."""
    found, number_format = hardware or find_hardware(), name_of(dtype)
    if device.type == "cpu":
        return f"on the CPU in {number_format}"
    index = device.index or 0
    name = f" ({found.names[index]})" if index < len(found.names) else ""
    return f"on {device.type}:{index}{name} in {number_format}"


def describe_training(args: Any, dtype: str | torch.dtype | None = None) -> str:
    """Say where training runs and in what: "on the CPU in bfloat16 (weights in float32)" with mixed precision.

    Args:
        args: `TrainingArguments`.
        dtype: Of the weights; of `args.model_init_kwargs` where None.
    """
    weights = choose_dtype(dtype or (args.model_init_kwargs or {}).get("dtype", torch.float32), args.device)
    computed = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else weights
    return describe(args.device, computed) + ("" if weights == computed else f" (weights in {name_of(weights)})")


def settle_precision(args: Any) -> None:
    """Decide `bf16` of training options where it is None: mixed precision where the device has bfloat16.

    Called before they check themselves. On a machine without an accelerator it also says `use_cpu`, without which
    transformers takes bfloat16 for a mistake there.

    Args:
        args: `TrainingArguments`, as far as they are made.
    """
    if args.bf16 is not None:
        return
    cpu = args.use_cpu or os.environ.get("ACCELERATE_USE_CPU", "false").lower() in ("1", "true")
    device = CPU if cpu else choose_device(AUTO)
    sharded = bool(args.deepspeed or args.fsdp) or launched_with("DEEPSPEED") or launched_with("FSDP")
    if device.type == "cpu" and sharded:  # Neither computes in bfloat16 there.
        args.bf16 = False
        return
    args.bf16 = not args.fp16 and has_bfloat16(device)
    args.use_cpu = args.use_cpu or device.type == "cpu"


def with_trained_dtype(init_kwargs: Mapping[str, Any] | None, device: torch.device, adapters: bool) -> dict[str, Any]:
    """Return what `from_pretrained` is given, with a `dtype` of `auto` decided by `choose_trained_dtype`.

    Raises:
        ValueError: If the `dtype` is none.
    """
    given = dict(init_kwargs or {})
    if (wanted := given.get("dtype")) is not None:
        chosen = choose_trained_dtype(wanted, device, adapters)
        given["dtype"] = name_of(chosen) if wanted == AUTO else wanted
    return given
