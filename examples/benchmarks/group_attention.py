"""Attention of many small groups on a CPU: matrix products against PyTorch's kernel, forward and backward.

    OMP_NUM_THREADS=1 python examples/benchmarks/group_attention.py

Groups of Q tokens that each see S, as passages behind a question are, in the shapes of the heads of three models, and
as choices behind a long prompt, which the autoregressive policy draws.
Milliseconds of the processor, medians over rounds in which both take turns, and how far either is from float64: the
largest relative error of the result and of the three gradients.
"""

import argparse
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers.integrations.sdpa_attention import repeat_kv

from dro_trl.lm.group_attention import attend_by_products

SHAPES = {
    "Gemma 3 270M": (26, 4, 1, 66, 95, 256),
    "Qwen2.5 0.5B": (160, 14, 2, 100, 130, 64),
    "Llama 3.1 8B": (32, 32, 8, 100, 150, 128),
    "Qwen2.5 0.5B, choices": (16, 14, 2, 2, 2100, 64),
}
"""Groups, heads, key heads, Q, S and the width of a head."""

Attend = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def kernel(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """PyTorch's, with key heads repeated as transformers does."""
    key, value = (repeat_kv(given, query.shape[1] // key.shape[1]) for given in (key, value))
    return torch.nn.functional.scaled_dot_product_attention(query, key, value, mask).transpose(1, 2).contiguous()


WAYS: dict[str, Attend] = {"kernel": kernel, "products": attend_by_products}


def inputs(shape: tuple[int, ...], dtype: torch.dtype) -> list[Tensor]:
    """Random query, key and value, the mask, and a gradient."""
    groups, heads, key_heads, queries, keys, width = shape
    sizes = [(heads, queries, width), *[(key_heads, keys, width)] * 2]
    query, key, value = (torch.randn(groups, *size).to(dtype).requires_grad_() for size in sizes)
    mask = torch.full((1, 1, queries, keys), float("-inf")).triu(keys - queries + 1).to(dtype)
    return [query, key, value, mask, torch.randn(groups, queries, heads, width).to(dtype)]


def passes(attend: Attend, given: list[Tensor]) -> list[Tensor]:
    """One forward and one backward pass: the result and the gradients."""
    *leaves, mask, gradient = given
    leaves = [leaf.detach().requires_grad_() for leaf in leaves]
    found = attend(*leaves, mask)  # type: ignore[call-arg]
    found.backward(gradient)
    return [found.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]


def measure(shape: tuple[int, ...], dtype: torch.dtype, rounds: int) -> dict[str, tuple[float, float]]:
    """Return milliseconds and error of each way."""
    given = inputs(shape, dtype)
    exact = passes(kernel, [part.detach().double() for part in given])
    errors: dict[str, float] = {}
    for name, attend in WAYS.items():
        found: Any = zip(passes(attend, given), exact, strict=True)
        errors[name] = max(float((part.double() - wanted).norm() / wanted.norm()) for part, wanted in found)
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(rounds):
        for name, attend in WAYS.items():
            start = time.process_time()
            passes(attend, given)
            seconds[name].append(time.process_time() - start)
    return {name: (1000 * median(seconds[name]), errors[name]) for name in WAYS}


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--models", nargs="+", choices=SHAPES, default=list(SHAPES))
    options = parser.parse_args()
    torch.manual_seed(0)
    table = Table("heads of", "dtype", "kernel, ms (error)", "products, ms (error)", "times faster")
    for name in options.models:
        for dtype in (torch.bfloat16, torch.float32):
            found = measure(SHAPES[name], dtype, options.rounds)
            cells = [f"{milliseconds:.1f} ({error:.0e})" for milliseconds, error in found.values()]
            ratio = found["kernel"][0] / found["products"][0]
            table.add_row(name, str(dtype).removeprefix("torch."), *cells, f"{ratio:.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
