"""What a training step needs of floating-point operations, as formulas of shapes and token counts."""

import time

import torch

from dro_trl.recipes.estimates.quantities import ModelShape, Precision, Reading, Tuning


def forward_flops(shape: ModelShape, reading: Reading) -> tuple[float, float]:
    """Return the operations of a forward pass in the layers and in the output embeddings.

    Two for each weight and token, and four for each pair of tokens that attention compares and each of a query's
    numbers (Kaplan et al., 2020, section 2.1); where attention is causal, kernels skip what is not seen.
    """
    layer = 2 * shape.layer_weights * reading.length + 4 * reading.attention(shape).pairs * shape.queries
    return reading.rows * shape.layers * layer, 2.0 * reading.kept * shape.head_weights


def training_flops(shape: ModelShape, tuning: Tuning, reading: Reading) -> float:
    """Return the operations of a forward and a backward pass.

    The backward pass costs as much again for the gradients of activations, in the layers that it reaches, and once
    more for those of trained matrices; checkpointing a second forward pass.
    """
    layers, head = forward_flops(shape, reading)
    if not tuning.trained:
        return layers + head
    reached = 1.0 if tuning.checkpointing else 1 - tuning.first_layer / shape.layers
    times = 1 + reached * (1 + tuning.full + tuning.checkpointing)
    return layers * times + head * (2 + tuning.full)


def measured_flops_per_second(precision: Precision, hidden: int, intermediate: int, seconds: float = 1.0) -> float:
    """Return the operations a second of matrix products of a layer's size on this machine: its GPU, or its CPU."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.float32 if precision.compute == 4 else torch.bfloat16
    first = torch.randn(512, hidden, dtype=dtype, device=device)
    second = torch.randn(hidden, intermediate, dtype=dtype, device=device)
    first @ second
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        first @ second
        count += 1
        if device == "cuda":
            torch.cuda.synchronize()
    return count * 2.0 * 512 * hidden * intermediate / (time.perf_counter() - started)
