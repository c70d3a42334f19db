"""Which operators a training step spends its time in.

    OMP_NUM_THREADS=1 python examples/benchmarks/step_profile.py

A Qwen2 of 25M random weights in float32, or of another size, as selector and generator, all weights trained,
`--batch_size` questions a step, N = 20 passages of 100 tokens, K = 5, M = 4; torch.profiler over the third step of
`DROTrainer`, optimizer included. Times are an operator's own, without those that it calls; those that others call
count as well. They are the processor's; the JSON has those of a GPU too.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from rich.console import Console
from rich.table import Table
from selector_memory import POLICIES
from small_models import DEVICE, QWEN2_25M, SIZES, add_model_options, questions
from small_runs import make_trainer
from torch.profiler import ProfilerActivity, profile
from transformers import TrainerCallback

from dro_trl.files.writing import write_json


class ProfiledStep(TrainerCallback):
    """The last step's operators."""

    def __init__(self) -> None:
        kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if DEVICE == "cuda" else [])]
        self._profiler = profile(activities=kinds, record_shapes=True)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == state.max_steps - 1:
            self._profiler.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == state.max_steps:
            self._profiler.stop()

    def operators(self) -> list[dict[str, Any]]:
        """Return each operator's calls, milliseconds and share of the step, and its most expensive shapes."""
        averages = self._profiler.key_averages(group_by_input_shape=True)
        total = sum(event.self_cpu_time_total for event in averages)
        by_name: dict[str, list[Any]] = {}
        for event in averages:
            by_name.setdefault(event.key, []).append(event)
        found = []
        for name, events in by_name.items():
            own = sum(event.self_cpu_time_total for event in events)
            largest = max(events, key=lambda event: event.self_cpu_time_total)
            found.append(
                {
                    "operator": name,
                    "calls": sum(event.count for event in events),
                    "ms": own / 1e3,
                    "share": own / total,
                    "device_ms": sum(event.self_device_time_total for event in events) / 1e3,
                    "shapes": [shape for shape in largest.input_shapes if shape],
                    "share_of_shapes": largest.self_cpu_time_total / total,
                }
            )
        return sorted(found, key=lambda row: -row["ms"])


def profile_step(
    policy: str,
    num_candidates: int = 20,
    passage_tokens: int = 100,
    sizes: dict[str, Any] = QWEN2_25M,
    batch_size: int = 1,
    dtype: torch.dtype = torch.float32,
) -> list[dict[str, Any]]:
    """Return the operators of a step, the most expensive first."""
    torch.set_num_threads(1)
    path, kwargs = POLICIES[policy]
    profiled = ProfiledStep()
    rows = Dataset.from_list(questions(3 * batch_size, num_candidates, passage_tokens))
    with tempfile.TemporaryDirectory() as folder:
        options = {"num_selections": 4, "policy": path, "policy_kwargs": kwargs}
        options |= {"per_device_train_batch_size": batch_size}
        trainer = make_trainer(rows, folder, sizes, dtype, max_steps=3, **options)
        trainer.add_callback(profiled)
        trainer.train()
    return profiled.operators()


def table(operators: Sequence[dict[str, Any]], policy: str) -> Table:
    """Return the most expensive operators."""
    shown = Table("operator", "calls", "ms", "share", "most of it on", "share", title=policy)
    for row in operators:
        shapes = " ".join("x".join(map(str, shape)) for shape in row["shapes"][:3])
        shares = (f"{row[name]:.1%}" for name in ("share", "share_of_shapes"))
        shown.add_row(row["operator"], str(row["calls"]), f"{row['ms']:.0f}", next(shares), shapes, next(shares))
    return shown


def main() -> None:
    """Profile, print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", choices=POLICIES, default="pointwise")
    parser.add_argument("--batch_size", type=int, default=1)
    add_model_options(parser)
    parser.add_argument("--rows", type=int, default=12, help="of the printed table")
    parser.add_argument("--output", type=Path, default=Path("step_profile.json"))
    options = parser.parse_args()
    sizes, dtype = SIZES[options.size], getattr(torch, options.dtype)
    operators = profile_step(options.policy, sizes=sizes, batch_size=options.batch_size, dtype=dtype)
    Console(width=140).print(table(operators[: options.rows], options.policy))
    calls = sum(row["calls"] for row in operators)
    print(f"{calls} calls of operators a step, {calls / options.batch_size:.0f} a question")
    write_json(options.output, operators)
    print(f"Results: {options.output}")


if __name__ == "__main__":
    main()
