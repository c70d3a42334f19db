"""Training mode and evaluation mode, where they differ."""

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import nn


def computes_alike(model: Any) -> bool:
    """Whether a model computes in training what it does in evaluation, and keeps keys in both."""
    if not model.training:
        return True
    for module in model.modules():
        if getattr(module, "gradient_checkpointing", False) or (isinstance(module, nn.Dropout) and module.p > 0):
            return False
        rate = getattr(module, "attention_dropout", 0.0)
        if isinstance(rate, float) and rate > 0:
            return False
    return True


@contextlib.contextmanager
def keeping_a_cache(model: nn.Module) -> Iterator[None]:
    """Evaluation mode: layers with gradient checkpointing drop the cache in training mode."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
