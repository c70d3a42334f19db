"""Keeping processes in step where weights are sharded: there every forward is a gathering that all must join."""

import contextlib
from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import FSDPModule
from transformers.integrations import deepspeed


def is_sharded(model: nn.Module) -> bool:
    """Whether a forward of the model gathers weights from other processes, as under ZeRO-3 and FSDP2."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return False
    under_zero3 = any(hasattr(parameter, "ds_id") for parameter in model.parameters())
    return under_zero3 or any(isinstance(module, FSDPModule) for module in model.modules())


def most_forwards(model: nn.Module, count: int) -> int:
    """Return how many forwards every process must run so that none waits for another for ever.

    Args:
        model: The model whose forwards are counted. Where it is sharded, every process must make this call.
        count: How many this process needs.

    Returns:
        The largest count over all processes; `count` itself where the model is not sharded.
    """
    if not is_sharded(model):
        return count
    largest = torch.tensor(count, device=next(model.parameters()).device)
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    return int(largest)


@contextlib.contextmanager
def loading_whole() -> Iterator[None]:
    """Load models whole on each process in this context, where ZeRO-3 would shard them and no engine gather them.

    For models that the trainer does not know of, such as one that a reward calls.
    """
    active = deepspeed._hf_deepspeed_config_weak_ref and deepspeed._hf_deepspeed_config_weak_ref()
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        if active is not None:
            deepspeed.set_hf_deepspeed_config(active)
