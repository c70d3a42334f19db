"""What a study is to run: a recipe with methods and seeds, and the rows that come of it."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import NonNegativeInt, PositiveInt

from dro_trl.options.values import Seed

START_SYSTEMS = ("start, retriever order", "start")
"""The untrained pair of the first method, reading the retriever's first K passages or its own selection."""
OWN_ORDER = ", retriever order"
"""Ends the name of a system whose trained generator reads the retriever's first K passages."""


@dataclass(frozen=True)
class Study:
    """A training recipe, the methods and seeds to train it with, and how to evaluate what comes of it.

    Every field but `recipe` is a key of the study's own; all other keys of its file are of the training recipe.
    """

    recipe: dict[str, Any]
    methods: dict[str, dict[str, Any]] = field(
        metadata={
            "help": "The recipe's lines that each sets otherwise, by method; the others are compared with the first."
        }
    )
    eval_dataset_name: str = field(metadata={"help": "File or hub name of the held-out questions."})
    output_dir: str = field(metadata={"help": "Folder of the rows and the report."})
    seeds: list[Seed] | tuple[Seed, ...] = field(default=(0,), metadata={"help": "Every method is trained with each."})
    dataset_test_split: str = field(default="test", metadata={"help": "Split of a hub dataset that holds them."})
    max_eval_samples: PositiveInt | None = field(
        default=None, metadata={"help": "Evaluate on the first so many of them only."}
    )
    max_new_tokens: PositiveInt = field(default=32, metadata={"help": "Longest answer, in tokens."})
    per_device_eval_batch_size: PositiveInt = field(
        default=8, metadata={"help": "Questions in a batch of evaluation."}
    )
    eval_device: str = field(
        default="auto", metadata={"help": "Where rows are evaluated: auto (a GPU if there is one), cpu, cuda:1, …"}
    )
    eval_dtype: str = field(
        default="auto", metadata={"help": "Of the weights then: auto (bfloat16 if the device has it), float32, …"}
    )
    equal_samples: bool = field(
        default=True,
        metadata={
            "help": "Whether methods must draw equally many samples and make equally many optimizer steps; false for "
            "ablations."
        },
    )
    title: str = field(default="Methods compared", metadata={"help": "Of the report."})
    num_examples: NonNegativeInt = field(
        default=3, metadata={"help": "Held-out questions that the report shows side by side."}
    )

    @property
    def evaluation(self) -> dict[str, Any]:
        """What decides the outcome of a row's evaluation."""
        names = (
            "eval_dataset_name",
            "dataset_test_split",
            "max_eval_samples",
            "max_new_tokens",
            "eval_device",
            "eval_dtype",
        )
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Row:
    """One training run of a study."""

    method: str
    seed: int
    folder: Path
    recipe: dict[str, Any]
    """The training recipe of this row."""


def plan_rows(study: Study) -> list[Row]:
    """Return the rows of a study: all methods with the first seed, then with the next."""
    rows = []
    for seed in study.seeds:
        for method, overrides in study.methods.items():
            folder = Path(study.output_dir) / "rows" / f"{slug(method)}-seed{seed}"
            recipe = {**study.recipe, **overrides, "seed": seed, "output_dir": str(folder / "model")}
            rows.append(Row(method, seed, folder, recipe))
    return rows


def slug(method: str) -> str:
    """Return a method's name as a folder's."""
    return re.sub(r"[^a-z0-9]+", "-", method.lower()).strip("-")
