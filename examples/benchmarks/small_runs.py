"""What the benchmarks of whole training steps share: a trainer of small models, and the seconds of its steps."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from small_models import DEVICE, QWEN2_25M, random_model, word_tokenizer
from transformers import TrainerCallback

from dro_trl import DROConfig, DROTrainer

NUM_SELECTED = 5
"""K, unless said otherwise."""
COMMON: dict[str, Any] = {
    "report_to": "none",
    "disable_tqdm": True,
    "save_strategy": "no",
    "logging_strategy": "no",
    "bf16": False,
    "learning_rate": 1e-6,
}
"""Options of every trainer that is timed."""


def now() -> float:
    """Return the seconds of a clock, once a GPU has done what it was given."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


work_clock = now if DEVICE == "cuda" else time.process_time
"""Seconds that work took: on a GPU those of the clock, else those that the processor gave to this process."""


class StepTimes(TrainerCallback):
    """The seconds of each step, by a clock."""

    def __init__(self, clock: Callable[[], float] = now) -> None:
        self.seconds: list[float] = []
        self._clock = clock

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._start = self._clock()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.seconds.append(self._clock() - self._start)


def make_trainer(
    rows: Dataset,
    folder: str | Path,
    shape: Mapping[str, Any] = QWEN2_25M,
    dtype: torch.dtype = torch.float32,
    eval_dataset: Dataset | None = None,
    callbacks: list[TrainerCallback] | None = None,
    **options: Any,
) -> DROTrainer:
    """Return a trainer of two random Qwen2, one question a step, with `options` of `DROConfig`."""
    args = DROConfig(
        str(folder),
        **{
            "num_selected": NUM_SELECTED,
            "per_device_train_batch_size": 1,
            "use_cpu": DEVICE == "cpu",
            **COMMON,
            **options,
        },
    )
    return DROTrainer(
        model=random_model("qwen2", dtype, **shape),
        generator=random_model("qwen2", dtype, **shape),
        args=args,
        train_dataset=rows,
        eval_dataset=eval_dataset,
        callbacks=callbacks,
        processing_class=word_tokenizer(),
        generator_processing_class=word_tokenizer(),
    )
