"""What `dro-trl estimate` expects against what training takes, for small models of random weights on one CPU process.

    python examples/benchmarks/estimate_against_measured.py

Each configuration trains two steps in a fresh process. Memory is the peak of resident memory, over the state right
before the models are made (everything is imported, and a tiny model has trained, by then). Time is that of the last
step, one thread; the expected one divides its operations by the rate of matrix products measured in the same process,
so that the ratio says which part of that rate training reaches.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from rich.console import Console
from rich.table import Table
from small_models import DEVICE, PeakMemory, in_fresh_process, questions, random_model, word_tokenizer
from transformers import AutoConfig, TrainerCallback
from trl import get_peft_config

from dro_trl import DROTrainer
from dro_trl.files.writing import write_json
from dro_trl.recipes.arguments import parse_recipe
from dro_trl.recipes.estimates.estimate import describe_run, estimate_memory, estimate_time
from dro_trl.recipes.estimates.flops import measured_flops_per_second
from dro_trl.recipes.estimates.quantities import Backend

SMALL = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 4}
MIDDLE = {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 8, "num_attention_heads": 8}
LARGE = {"hidden_size": 640, "intermediate_size": 2560, "num_hidden_layers": 8, "num_attention_heads": 10}
SHAPES = {
    "qwen2-12M": ("qwen2", {**SMALL, "num_key_value_heads": 2, "tie_word_embeddings": True}),
    "llama-60M": ("llama", {**MIDDLE, "num_key_value_heads": 8, "tie_word_embeddings": False}),
    "qwen2-68M": ("qwen2", {**LARGE, "num_key_value_heads": 2, "tie_word_embeddings": True}),
    "gemma3-41M": (
        "gemma3_text",
        {**MIDDLE, "num_key_value_heads": 2, "head_dim": 64, "sliding_window": 512, "tie_word_embeddings": True},
    ),
}
LORA = "--use_peft --lora_r 16 --lora_target_modules all-linear"
UPPER_HALF = r"--use_peft --lora_r 16 --lora_target_modules .*\.layers\.[4-7]\..*_proj"
CHECKPOINTED = "--activation_checkpointing true"
AUTOREGRESSIVE = "--policy dro_trl.AutoregressivePolicy"
PASSAGE_END = '--policy_kwargs {"item_score":"passage_end"}'
CONFIGURATIONS: dict[str, tuple[str, int, int, str]] = {
    "small, full": ("qwen2-12M", 10, 4, ""),
    "LoRA": ("qwen2-68M", 10, 4, LORA),
    "full": ("qwen2-68M", 10, 4, ""),
    "N = 20, M = 8, checkpointed": ("llama-60M", 20, 8, CHECKPOINTED),
    "autoregressive": ("llama-60M", 20, 4, AUTOREGRESSIVE),
    "Gemma 3": ("gemma3-41M", 10, 4, ""),
    "bfloat16, LoRA": ("qwen2-68M", 10, 4, f"{LORA} --dtype bfloat16 --bf16 true"),
    "autocast, full": ("qwen2-68M", 10, 4, "--bf16 true"),
    "LoRA on the upper half": ("qwen2-68M", 10, 4, UPPER_HALF),
    "full, checkpointed": ("qwen2-68M", 10, 4, CHECKPOINTED),
    "small, LoRA": ("qwen2-12M", 10, 4, LORA),
    "LoRA, checkpointed": ("qwen2-68M", 10, 4, f"{LORA} {CHECKPOINTED}"),
    "N = 20": ("llama-60M", 20, 4, ""),
    "N = 20, M = 8": ("llama-60M", 20, 8, ""),
    "listwise": ("llama-60M", 20, 4, PASSAGE_END),
    "Gemma 3, LoRA": ("gemma3-41M", 10, 4, LORA),
    "two questions": ("gemma3-41M", 10, 4, "--per_device_train_batch_size 2"),
    "accumulation": ("gemma3-41M", 10, 4, "--gradient_accumulation_steps 2"),
    "selector alone": ("qwen2-68M", 20, 4, "--no_train_generator"),
}
PASSAGE_TOKENS = 60
NUM_SELECTED = 3


def arguments(folder: Path, name: str) -> list[str]:
    """Write a configuration's model sizes, tokenizer and data, and return it as arguments of `dro-trl train`."""
    shape, num_candidates, num_selections, options = CONFIGURATIONS[name]
    kind, sizes = SHAPES[shape]
    AutoConfig.for_model(kind, **{"vocab_size": 32_000, **sizes}).save_pretrained(folder / "model")
    word_tokenizer().save_pretrained(folder)
    rows = [{**row, "gold_ids": []} for row in questions(16, num_candidates, PASSAGE_TOKENS)]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = {
        "model_name_or_path": folder,
        "dataset_name": folder / "train.jsonl",
        "output_dir": folder / "out",
        "num_candidates": num_candidates,
        "num_selected": NUM_SELECTED,
        "num_selections": num_selections,
        "per_device_train_batch_size": 1,
        "max_steps": 2,
        "dtype": "float32",
        "bf16": "false",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": "true",
    }
    fixed = [part for option, value in given.items() for part in (f"--{option}", str(value))]
    return [*fixed, *(["--use_cpu"] if DEVICE == "cpu" else []), *options.split()]


class StepTimes(TrainerCallback):
    """Notes when each step ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """Note the time."""
        self.ends.append(time.perf_counter())


def train(name: str, folder: Path, steps: int = 2, **sizes: Any) -> tuple[float, list[float]]:
    """Train a configuration; return the peak in MiB from before the models are made, and the ends of the steps."""
    script, args, model = parse_recipe([*arguments(folder, name), "--max_steps", str(steps)])
    kind, shape = SHAPES[CONFIGURATIONS[name][0]]
    rows = Dataset.from_json(str(script.dataset_name), cache_dir=str(folder / "cache"))
    tokenizer, times = word_tokenizer(), StepTimes()
    peak = PeakMemory()
    made = random_model(kind, **{**shape, **sizes}).to(getattr(torch, str(model.dtype)))
    made.name_or_path = str(folder)
    trainer = DROTrainer(
        made, args=args, train_dataset=rows, processing_class=tokenizer, peft_config=get_peft_config(model)
    )
    del made
    trainer.add_callback(times)
    trainer.train()
    return peak.mib(), times.ends


def measure(name: str) -> dict[str, float]:
    """Return what a configuration takes, and the rate of matrix products beside it."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        train(name, Path(folder), steps=1, hidden_size=64, intermediate_size=64)
        mib, ends = train(name, Path(folder))
    shape = SHAPES[CONFIGURATIONS[name][0]][1]
    run = expected_run(name)
    rate = measured_flops_per_second(run.precision, shape["hidden_size"], shape["intermediate_size"])
    return {"mib": mib, "seconds": ends[-1] - ends[-2], "flops_per_second": rate}


def expected_run(name: str) -> Any:
    """Return the configuration as the formulas see it."""
    with tempfile.TemporaryDirectory() as folder:
        parts = parse_recipe(arguments(Path(folder), name))
        return describe_run(*parts, Backend(), model_config=f"{folder}/model")


def compare(name: str) -> dict[str, Any]:
    """Return expected and measured memory and time of a configuration."""
    measured = measure(name)
    run = expected_run(name)
    memory, expected_time = estimate_memory(run), estimate_time(run, measured["flops_per_second"])
    mib = memory["peak"] / 2**20
    return {
        "configuration": name,
        "model": CONFIGURATIONS[name][0],
        "parameters": run.selector.shape.parameters,
        "peak_moment": memory["peak_moment"],
        "expected_mib": mib,
        "measured_mib": measured["mib"],
        "memory_ratio": mib / measured["mib"],
        "flops": expected_time["flops_of_a_step"],
        "flops_per_second": measured["flops_per_second"],
        "expected_seconds": expected_time["seconds_of_a_step"],
        "measured_seconds": measured["seconds"],
        "time_ratio": expected_time["seconds_of_a_step"] / measured["seconds"],
    }


def main() -> None:
    """Measure, print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=CONFIGURATIONS, default=list(CONFIGURATIONS))
    parser.add_argument("--output", type=Path, default=Path("estimate_against_measured.json"))
    options = parser.parse_args()
    rows = []
    for name in options.only:
        rows.append(in_fresh_process(compare, name))
        write_json(options.output, rows)
    shown = Table("", "model", "expected (MiB)", "measured", "ratio", "expected (s)", "measured", "ratio")
    for row in rows:
        memory = (f"{row['expected_mib']:.0f}", f"{row['measured_mib']:.0f}", f"{row['memory_ratio']:.2f}")
        seconds = (f"{row['expected_seconds']:.2f}", f"{row['measured_seconds']:.2f}", f"{row['time_ratio']:.2f}")
        shown.add_row(row["configuration"], row["model"], *memory, *seconds)
    Console(width=120).print(shown)
    print(f"Results: {options.output}")


if __name__ == "__main__":
    main()
