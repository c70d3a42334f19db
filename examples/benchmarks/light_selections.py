"""What it saves, and what it changes, to leave selections that weigh little out of the generator's gradient.

    OMP_NUM_THREADS=1 python examples/benchmarks/light_selections.py --model "$(dro-trl gemma)" \
        --dataset quickstart/data/train.top8.jsonl

A training step of one question, forward and backward, with each `min_generator_weight`, on the same draws; LoRA r = 16
on all layers of both models. For each threshold: the weight that is left out, the length of the difference from the
whole gradient of the generator relative to that gradient's, and the processor's time of the step over that without a
threshold. Means over questions with 95 % bootstrap intervals, the medians of the times.
"""

import argparse
import statistics
import tempfile
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import torch
from peft import LoraConfig
from rich.console import Console
from rich.table import Table
from scipy import stats

from dro_trl import DROConfig, DROTrainer, load_rag_dataset
from dro_trl.files.writing import write_json


def generator_gradient(trainer: DROTrainer, row: Any, threshold: float) -> tuple[torch.Tensor, float, float]:
    """Return the generator's gradient of a step as one vector, the weight left out, and the seconds."""
    trainer.args.min_generator_weight = threshold
    trainer.model.train().zero_grad()
    start = process_time()
    with trainer.compute_loss_context_manager():
        loss = trainer.compute_loss(trainer.model, {"rows": [row], "draw": 0})
    loss.backward()
    seconds = process_time() - start
    parameters = (p for p in trainer.model.generator.parameters() if p.grad is not None)
    left_out = trainer.monitor.train.take().get("left_out_weight", 0.0)
    return torch.cat([p.grad.flatten().float() for p in parameters]), left_out, seconds  # type: ignore[union-attr]


def mean_with_interval(values: list[float]) -> str:
    """Return a mean and its interval over questions."""
    found = stats.bootstrap((np.array(values),), np.mean, rng=0) if len(set(values)) > 1 else None
    interval = f" [{found.confidence_interval.low:.3f}, {found.confidence_interval.high:.3f}]" if found else ""
    return f"{statistics.mean(values):.3f}{interval}"


def main() -> None:
    """Measure, print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--num_questions", type=int, default=20)
    parser.add_argument("--num_selections", type=int, default=16)
    parser.add_argument("--num_selected", type=int, default=2)
    parser.add_argument("--thresholds", type=float, nargs="+", default=[0.01, 0.05, 0.1])
    parser.add_argument("--output", type=Path, default=Path("light_selections.json"))
    options = parser.parse_args()
    rows = load_rag_dataset(options.dataset).select(range(options.num_questions))
    with tempfile.TemporaryDirectory() as folder:
        args = DROConfig(
            folder,
            num_selected=options.num_selected,
            num_selections=options.num_selections,
            use_cpu=not torch.cuda.is_available(),
            bf16=False,
            report_to="none",
        )
        lora = LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM")
        trainer = DROTrainer(model=options.model, args=args, train_dataset=rows, peft_config=lora)
    found: dict[float, list[dict[str, float]]] = {threshold: [] for threshold in options.thresholds}
    for row in trainer.train_dataset:
        whole, _, all_seconds = generator_gradient(trainer, row, 0.0)
        for threshold, records in found.items():
            gradient, left_out, seconds = generator_gradient(trainer, row, threshold)
            error = float((gradient - whole).norm() / whole.norm())
            records.append({"left_out_weight": left_out, "error": error, "time": seconds / all_seconds})
    shown = Table("min_generator_weight", "weight left out", "error of the gradient", "time of a step")
    for threshold, records in found.items():
        columns = {name: [record[name] for record in records] for name in records[0]}
        cells = (mean_with_interval(columns[name]) for name in ("left_out_weight", "error"))
        shown.add_row(f"{threshold}", *cells, f"{statistics.median(columns['time']):.2f}")
    write_json(options.output, {str(threshold): records for threshold, records in found.items()})
    Console(width=120).print(shown)
    print(f"Results: {options.output}")


if __name__ == "__main__":
    main()
