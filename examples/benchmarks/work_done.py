"""How much of a training step is work, and how much of that work is needed.

    OMP_NUM_THREADS=1 python examples/benchmarks/work_done.py
    python examples/benchmarks/work_done.py --size 0.5B --dtype bfloat16     # on a GPU

A Qwen2 of 25M random weights in float32, or of another size, as selector and generator, all weights trained, one
question a step, N = 20 passages of 100 tokens, K = 5, M = 4. For each policy, in a fresh process:

- *rate*: the operations a second of a step of `DROTrainer` over those of a product of two matrices of 2048 x 2048 (on
  a GPU 8192 x 8192, in the models' format) in the same process; the two take turns, one product before each step.
  Median over the steps, the first left out. Seconds are those that the processor gave to the process, which has one
  thread, so that other work on the machine counts little; on a GPU those of the clock.
- *over the floor*: the operations of a step over the fewest that it could do. torch's FlopCounterMode counts those
  that are done, with attention by formulas of `operations.py`.
- *M = 16 over M = 1*: the time of a step of the selector alone, where the two take turns, medians over the steps; and
  its operations.

The floor is three times a forward pass (one for the forward pass, two for the backward pass: a gradient of the inputs
and one of the weights), of the selector over its prompt and of the generator over each distinct (selection, answer):

    3 x (2 x layers x weights of a layer x tokens + 4 x layers x width of the queries x pairs + 2 x V x width x kept)

*tokens* are those of the prompt, each once, and of its continuations as far as something is predicted after them;
*pairs* those of a token and one that it may see, so that what a mask hides costs nothing; *kept* the positions at
which a logit counts. Above it are attention over hidden pairs, scores computed again in the backward pass of
attention, padding, and any pass without gradient, such as that in which the autoregressive policy draws. The same
counts give the ratio of larger models: layers grow with their weights, attention with its width, logits with V.
"""

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from operations import at_size, counting, floor_operations, generator_reads, selector_reads
from rich.console import Console
from rich.table import Table
from selector_memory import POLICIES, selector_step
from small_models import (
    DEVICE,
    QWEN2_25M,
    SIZES,
    VOCABULARY,
    add_model_options,
    in_fresh_process,
    questions,
    random_model,
    word_tokenizer,
)
from small_runs import NUM_SELECTED, StepTimes, make_trainer, work_clock
from transformers import TrainerCallback

from dro_trl import Question
from dro_trl.files.writing import write_json
from dro_trl.policies.base import load_policy
from dro_trl.recipes.estimates.model_shapes import describe_model, load_config
from dro_trl.recipes.estimates.quantities import ModelShape

LARGER = ("qwen2.5-0.5b", "qwen2.5-1.5b", "qwen2.5-7b")
KINDS = ("layers", "attention", "logits")
PRODUCT_SIZE = 8192 if DEVICE == "cuda" else 2048


class Products(TrainerCallback):
    """The operations a second of a large product, before each step."""

    def __init__(self, size: int, dtype: torch.dtype) -> None:
        self.rates: list[float] = []
        self._matrix = torch.randn(size, size, device=DEVICE, dtype=dtype)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        start = work_clock()
        self._matrix @ self._matrix
        self.rates.append(2 * len(self._matrix) ** 3 / (work_clock() - start))


class CountedStep(TrainerCallback):
    """The operations of the last step, by kind."""

    def __init__(self) -> None:
        self._counter, self.found = counting(VOCABULARY)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == state.max_steps - 1:
            self._counter.__enter__()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == state.max_steps:
            self._counter.__exit__(None, None, None)


def selector_policy(name: str) -> Any:
    """Return one of `POLICIES`."""
    path, kwargs = POLICIES[name]
    return load_policy(path, word_tokenizer(), NUM_SELECTED, kwargs)


def step_rates_and_operations(
    policy: str,
    rows: Sequence[Question],
    num_selections: int,
    sizes: dict[str, Any],
    dtype: torch.dtype,
    product_size: int,
) -> dict[str, Any]:
    """Train a step for each question: all are timed but the first, and the last, which is counted.

    Returns:
        Operations `done`, and those of the `floor` of each model, by kind; and of each timed step the `seconds`, the
        `product_rate` beside it, and the `rate` over that. `shape` is that of either model.
    """
    path, kwargs = POLICIES[policy]
    products, times, counted = Products(product_size, dtype), StepTimes(work_clock), CountedStep()
    seen: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        options = {"num_selections": num_selections, "policy": path, "policy_kwargs": kwargs}
        trainer = make_trainer(Dataset.from_list(rows), folder, sizes, dtype, max_steps=len(rows), **options)
        for callback in (products, times, counted):  # The clock starts after the product.
            trainer.add_callback(callback)
        trainer.model.register_forward_hook(lambda m, a, given, out: seen.update(given, out=out), with_kwargs=True)
        trainer.train()
    pair, (row,), drawn = trainer.model, seen["rows"], seen["out"].selections[0].tolist()
    shape, _, _ = describe_model(pair.selector.config, None, trained=True, checkpointing=False)
    timed = slice(1, -1)
    total = counted.found.total()
    return {
        "shape": shape,
        "done": counted.found,
        "floor": {
            "selector": floor_operations(shape, selector_reads(pair.policy, row, drawn)),
            "generator": floor_operations(shape, generator_reads(pair.scorer, row, drawn)),
        },
        "seconds": times.seconds[timed],
        "product_rate": products.rates[timed],
        "rate": [
            total / seconds / rate for seconds, rate in zip(times.seconds[timed], products.rates[timed], strict=True)
        ],
    }


def selector_operations(
    policy: str, rows: Sequence[Question], num_selections: int, sizes: dict[str, Any], dtype: torch.dtype
) -> Any:
    """Return the operations of a step of the selector alone, by kind."""
    model = random_model("qwen2", dtype, **sizes).train()
    counter, found = counting(VOCABULARY)
    with counter:
        selector_step(selector_policy(policy), model, torch.optim.SGD(model.parameters()), rows, num_selections, 0)
    return found


def selector_seconds(
    policy: str, rows: Sequence[Question], steps: int, sizes: dict[str, Any], dtype: torch.dtype
) -> dict[str, Any]:
    """Return the seconds of the selector's steps with M = 1 and with M = 16, which take turns; the first left out."""
    model: Any = random_model("qwen2", dtype, **sizes).train()
    chooser = selector_policy(policy)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    seconds: dict[str, list[float]] = {"1": [], "16": []}
    for number in range(steps + 1):
        for num, found in seconds.items():
            start = work_clock()
            selector_step(chooser, model, optimizer, rows, int(num), number)
            found.append(work_clock() - start)
    return {num: found[1:] for num, found in seconds.items()}


def measure(
    policy: str,
    steps: int,
    num_selections: int = 4,
    num_candidates: int = 20,
    passage_tokens: int = 100,
    sizes: dict[str, Any] = QWEN2_25M,
    dtype: torch.dtype = torch.float32,
    product_size: int = PRODUCT_SIZE,
) -> dict[str, Any]:
    """Return all figures of a policy."""
    torch.set_num_threads(1)
    rows = questions(steps + 2, num_candidates, passage_tokens)
    found = step_rates_and_operations(policy, rows, num_selections, sizes, dtype, product_size)
    of_selector = selector_operations(policy, rows[:1], num_selections, sizes, dtype)
    done = {"selector": of_selector, "generator": found["done"] - of_selector}
    one, many = (selector_operations(policy, rows[:1], num, sizes, dtype) for num in (1, 16))
    seconds = selector_seconds(policy, rows[:1], steps, sizes, dtype)
    floor, shape = found["floor"], found["shape"]
    larger = {name: describe_model(load_config(name), None, trained=True, checkpointing=False)[0] for name in LARGER}
    return {
        **found,
        "shape": asdict(shape),
        "policy": policy,
        "done": done,
        "over_floor": over_floor(done, floor, shape, shape),
        "over_floor_at": {name: over_floor(done, floor, shape, other) for name, other in larger.items()},
        "selector_seconds": seconds,
        "m16_over_m1": {
            "seconds": statistics.median(seconds["16"]) / statistics.median(seconds["1"]),
            "operations": many.total() / one.total(),
        },
    }


def over_floor(done: dict[str, Any], floor: dict[str, Any], shape: ModelShape, other: ModelShape) -> dict[str, float]:
    """Return the ratio of each model and of both, on models of another size that read the same tokens."""
    totals = [{name: at_size(found, shape, other).total() for name, found in parts.items()} for parts in (done, floor)]
    return {
        **{name: totals[0][name] / totals[1][name] for name in done},
        "both": sum(totals[0].values()) / sum(totals[1].values()),
    }


def tables(results: Sequence[dict[str, Any]]) -> list[Table]:
    """Return the figures of all policies, where their operations go, and what they would be on larger models."""
    ratios = ("over the floor", "selector", "generator", "M = 16 over M = 1", "operations")
    figures = Table("policy", "seconds a step", "rate", *ratios)
    where = Table("policy", "model", "GFLOP of", "done", "floor", "ratio")
    for row in results:
        over = (f"{row['over_floor'][name]:.2f}" for name in ("both", "selector", "generator"))
        rate = f"{statistics.median(row['rate']):.2f} ({min(row['rate']):.2f}–{max(row['rate']):.2f})"
        seconds = f"{statistics.median(row['seconds']):.2f}"
        times = (f"{row['m16_over_m1'][name]:.2f}" for name in ("seconds", "operations"))
        figures.add_row(row["policy"], seconds, rate, *over, *times)
        for name, done in row["done"].items():
            for kind in KINDS:
                floor = row["floor"][name][kind]
                shown = (f"{done[kind] / 1e9:.1f}", f"{floor / 1e9:.1f}", f"{done[kind] / floor:.2f}")
                where.add_row(row["policy"], name, kind, *shown)
    computed = Table("policy", *LARGER, title="over the floor on larger models, computed: both (selector)")
    for row in results:
        at = (f"{over['both']:.2f} ({over['selector']:.2f})" for over in row["over_floor_at"].values())
        computed.add_row(row["policy"], *at)
    return [figures, where, computed]


def main() -> None:
    """Measure, print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policies", nargs="+", choices=POLICIES, default=list(POLICIES))
    parser.add_argument("--steps", type=int, default=5, help="that are timed")
    add_model_options(parser)
    parser.add_argument("--output", type=Path, default=Path("work_done.json"))
    options = parser.parse_args()
    results = []
    sizes, dtype = SIZES[options.size], getattr(torch, options.dtype)
    for policy in options.policies:
        results.append(in_fresh_process(measure, policy, options.steps, 4, 20, 100, sizes, dtype))
        write_json(options.output, results)
    for table in tables(results):
        Console(width=120).print(table)
    print(f"Results: {options.output}")


if __name__ == "__main__":
    main()
