"""Where the time of a step goes on 8, 64 and 512 GPUs, by `dro-trl estimate`: computed, not measured.

    python examples/benchmarks/many_gpus.py

Qwen2.5 of 0.5B, 7B and 72B twice, all weights or LoRA of rank 16 on all linear layers of both, N = 20 passages of 130
tokens, K = 5, M = 8, activation checkpointing, 4 questions a GPU and step in `--micro_steps` passes. H100s (bfloat16:
989 TFLOP/s) of which `--utilization` is reached, each receiving `--bandwidth` GB/s while all others do.
"""

import argparse
import contextlib
import io
import itertools
import json
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from dro_trl.cli.app import app
from dro_trl.files.writing import write_json

MODELS = ("0.5B", "7B", "72B")
BACKENDS = ("DDP", "ZeRO-3", "FSDP2")
GPUS = (8, 64, 512)
QUESTIONS = 4
RECIPE = {
    "dataset_name": "data/train.top20.jsonl",
    "dtype": "bfloat16",
    "num_candidates": 20,
    "num_selected": 5,
    "num_selections": 8,
    "activation_checkpointing": "true",
    "passage_tokens": 130,
    "num_questions": 10000,
    "flops_per_second": 989e12,
}
LORA = ("--use_peft", "--lora_r", "16", "--lora_target_modules", "all-linear")


def estimate(model: str, lora: bool, **stated: Any) -> dict[str, Any]:
    """Return what `dro-trl estimate` writes, with what is stated beside the recipe."""
    stated = {**RECIPE, **stated, "model_name_or_path": f"Qwen/Qwen2.5-{model}"}
    options = [word for name, value in stated.items() for word in (f"--{name}", str(value))]
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        output = Path(folder) / "estimate.json"
        given = [*options, *(LORA if lora else ()), "--output_dir", folder, "--output", str(output)]
        app(["estimate", *given], standalone_mode=False)
        found: dict[str, Any] = json.loads(output.read_text())
    return found


def main() -> None:
    """Estimate, print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--utilization", type=float, default=0.4)
    parser.add_argument("--bandwidth", type=float, default=50.0, help="GB a second")
    parser.add_argument("--micro_steps", type=int, choices=(1, 2, QUESTIONS), default=QUESTIONS)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=BACKENDS)
    parser.add_argument("--gpus", type=int, nargs="+", default=GPUS)
    parser.add_argument("--output", type=Path, default=Path("many_gpus.json"))
    options = parser.parse_args()
    stated = {
        "utilization": options.utilization,
        "bandwidth": options.bandwidth,
        "per_device_train_batch_size": QUESTIONS // options.micro_steps,
        "gradient_accumulation_steps": options.micro_steps,
    }
    table = Table("model", "trained", "backend", "GPUs", "GiB a GPU", "work, s", "exchange, s", "step, s", "binds")
    rows = []
    cases = itertools.product(options.models, (False, True), options.backends, options.gpus)
    for model, lora, backend, gpus in cases:
        found = estimate(model, lora, backend=backend, gpus=gpus, **stated)
        memory, work, seconds = (
            found["memory"]["peak"],
            found["time"]["seconds_of_a_step"],
            found["exchange"]["seconds"],
        )
        trained = "LoRA" if lora else "all"
        rows.append({"model": model, "trained": trained, "backend": backend, "gpus": gpus})
        rows[-1] |= {"memory": memory, "computing": work, **seconds}
        step = f"{seconds['least']:.2f} to {seconds['most']:.2f}"
        times = f"{work:.2f}", f"{seconds['exchanging']:.2f}", step, str(seconds["binds"])
        table.add_row(model, trained, backend, str(gpus), f"{memory / 2**30:.1f}", *times)
    write_json(options.output, {"recipe": RECIPE | stated, "rows": rows})
    Console(width=110).print(table)
    print(f"Results: {options.output}")


if __name__ == "__main__":
    main()
