"""What a machine without an accelerator needs to run what its processes were launched for."""

import os
from typing import Any

import torch
from accelerate.state import PartialState
from accelerate.utils import DistributedType

from dro_trl import DROTrainer


def backend_options() -> dict[str, Any]:
    """Return the options with which a machine without an accelerator runs what it was launched for."""
    if os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true":
        import deepspeed

        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # A minute of compiling, for shared memory.
        return {"use_cpu": False, "ddp_backend": "gloo"}
    if os.environ.get("ACCELERATE_USE_FSDP") == "true":
        # accelerate shards only beside an accelerator, while FSDP2 itself runs on gloo.
        PartialState._prepare_backend = lambda *args, **kwargs: ("gloo", DistributedType.MULTI_GPU)
        PartialState.set_device = lambda self: setattr(self, "device", torch.device("cpu"))
        return {"use_cpu": False, "ddp_backend": "gloo"}
    return {"use_cpu": True}


def shard_everything(trainer: DROTrainer) -> None:
    """Make ZeRO-3 shard tiny models as well: it keeps small tensors whole, and then no forward gathers anything."""
    if plugin := trainer.accelerator.state.deepspeed_plugin:
        plugin.deepspeed_config["zero_optimization"]["stage3_param_persistence_threshold"] = 0
