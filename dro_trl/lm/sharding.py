"""Keeping processes in step where weights are sharded: there every forward is a gathering that all must join."""

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import FSDPModule


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
