"""A training step with compiled decoder layers (`torch_compile`) against one without.

    OMP_NUM_THREADS=1 python examples/benchmarks/compiled_layers.py

A Qwen2 of 25M random weights in float32, or of another size, as selector and generator, all weights trained, one
question a step, N = 20 passages of 100 tokens, K = 5, M = 4. A step is forward and backward; both trainers take every
question, in turns. The first questions, during which layers are compiled, count apart.
"""

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from rich.console import Console
from rich.table import Table
from selector_memory import POLICIES
from small_models import SIZES, add_model_options, questions
from small_runs import make_trainer, now

from dro_trl import DROTrainer
from dro_trl.files.writing import write_json


def step(trainer: DROTrainer, row: Any) -> tuple[float, float]:
    """Return the seconds and the loss of a question's forward and backward pass."""
    trainer.model.train().zero_grad()
    start = now()
    with trainer.compute_loss_context_manager():
        loss = trainer.compute_loss(trainer.model, {"rows": [row], "draw": 0})
    loss.backward()
    return now() - start, float(loss.detach())


def measure(
    policy: str, backend: str, num_first: int, num_timed: int, size: str, dtype: str
) -> dict[str, dict[str, list[float]]]:
    """Return the seconds and losses of each question, plain and compiled."""
    path, kwargs = POLICIES[policy]
    rows = Dataset.from_list(questions(num_first + num_timed, 20, 100))
    found: dict[str, dict[str, list[float]]] = {way: {"seconds": [], "loss": []} for way in ("plain", "compiled")}
    with tempfile.TemporaryDirectory() as folder:
        trainers = {}
        for way, backend_used in (("plain", None), ("compiled", backend)):
            options: dict[str, Any] = {"policy": path, "policy_kwargs": kwargs, "num_selections": 4}
            options |= {"torch_compile_backend": backend_used}
            trainers[way] = make_trainer(rows, folder, SIZES[size], getattr(torch, dtype), **options)
        trainers["compiled"].model.load_state_dict(trainers["plain"].model.state_dict())
        for row in trainers["plain"].train_dataset:
            for way, trainer in trainers.items():
                seconds, loss = step(trainer, row)
                found[way]["seconds"].append(seconds)
                found[way]["loss"].append(loss)
    return found


def main() -> None:
    """Measure, print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policies", nargs="+", choices=POLICIES, default=["pointwise", "autoregressive"])
    parser.add_argument("--backend", default="inductor")
    parser.add_argument("--num_first", type=int, default=5, help="questions during which layers are compiled")
    parser.add_argument("--num_timed", type=int, default=10)
    add_model_options(parser)
    parser.add_argument("--output", type=Path, default=Path("compiled_layers.json"))
    options = parser.parse_args()
    shown = Table("policy", "plain, s", "compiled, s", "times faster", "compiling, s", "largest difference of a loss")
    results = {}
    for policy in options.policies:
        results[policy] = found = measure(
            policy, options.backend, options.num_first, options.num_timed, options.size, options.dtype
        )
        plain, compiled = (found[way]["seconds"] for way in ("plain", "compiled"))
        ratios = [a / b for a, b in zip(plain, compiled, strict=True)][options.num_first :]
        medians = [statistics.median(seconds[options.num_first :]) for seconds in (plain, compiled)]
        spent = sum(compiled[: options.num_first]) - options.num_first * medians[1]
        differing = max(abs(a - b) for a, b in zip(found["plain"]["loss"], found["compiled"]["loss"], strict=True))
        shown.add_row(
            policy,
            *(f"{median:.2f}" for median in medians),
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
            f"{spent:.0f}",
            f"{differing:.1e}",
        )
    write_json(options.output, results)
    Console(width=120).print(shown)
    print(f"{torch.__version__}, {torch.get_num_threads()} threads, {options.backend}. Results: {options.output}")


if __name__ == "__main__":
    main()
