"""What a study is to run: its recipe read and checked, and the rows, methods x seeds, that come of it."""

import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from dro_trl.atomic_write import atomic_path
from dro_trl.recipe import RecipeLoader, known_keys, parse_recipe, read_recipe, refuse_unknown

START_SYSTEMS = ("start, retriever order", "start")
"""The untrained pair of the first method, reading the retriever's first K passages or its own selection."""
OWN_ORDER = ", retriever order"
"""Ends the name of a system whose trained generator reads the retriever's first K passages."""

SAMPLE_FIELDS = (
    "dataset_name",
    "dataset_train_split",
    "max_train_samples",
    "on_bad_row",
    "answerable_only",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "num_train_epochs",
    "max_steps",
    "num_selections",
    "num_iterations",
)
"""Fields that decide how many samples are drawn, and how many optimizer steps are made of them."""

PER_ROW = {
    "seed": "list the seeds in `seeds`",
    "resume": "an interrupted row is always resumed",
    "resume_from_checkpoint": "an interrupted row is always resumed",
    "eval_strategy": "the held-out questions are evaluated after training",
}


@dataclass(frozen=True)
class Study:
    """A training recipe, the methods and seeds to train it with, and how to evaluate what comes of it.

    Every field but `recipe` is a key of the study's own; all other keys of its file are of the training recipe.
    """

    recipe: dict[str, Any]
    methods: dict[str, dict[str, Any]]
    """Per method the recipe's fields that it sets otherwise. The others are compared with the first."""
    eval_dataset_name: str
    """File or hub name of the held-out questions."""
    output_dir: str
    seeds: tuple[int, ...] = (0,)
    dataset_test_split: str = "test"
    """Split of a hub dataset that holds them."""
    max_eval_samples: int | None = None
    """Evaluate on the first so many of them only."""
    max_new_tokens: int = 32
    """Longest answer, in tokens."""
    eval_batch_size: int = 8
    eval_device: str = "cpu"
    eval_dtype: str = "float32"
    equal_samples: bool = True
    """Whether methods must draw equally many samples and make equally many optimizer steps; false for ablations."""
    title: str = "Methods compared"
    """Of the report."""
    num_examples: int = 3
    """Held-out questions that the report shows side by side."""

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


KEYS = {f.name for f in fields(Study)} - {"recipe"}


def parse_study(arguments: Sequence[str]) -> Study:
    """Parse `--config study.yaml --name value …`.

    Args:
        arguments: Of the command line; values are read as YAML.

    Raises:
        ValueError: If a key is unknown (the nearest known one is named), missing or of the wrong kind; if a method's
            recipe is faulty; or if methods differ in their samples and `equal_samples` is not false.
        FileNotFoundError: If the file does not exist.
    """
    given = _options(arguments)
    source = given.pop("config", None)
    if not isinstance(source, str):
        raise ValueError("--config names no file; write --config study.yaml")
    lines = read_recipe(Path(source))
    for names, where in ((lines, source), (given, "the command line")):
        refuse_unknown(names, known_keys() | KEYS, where)
    lines |= given
    for name in ("methods", "eval_dataset_name", "output_dir"):
        if not lines.get(name):
            raise ValueError(f"{source}: {name} is not set; add it to the study's recipe")
    own = {name: lines.pop(name) for name in sorted(KEYS & lines.keys())}
    own["methods"] = _check_methods(own["methods"], source)
    _refuse_per_row(lines, source)
    own["seeds"] = _check_seeds(own.get("seeds", [0]), source)
    _check_numbers(own, source)
    study = Study(recipe=lines, **own)
    check_recipes(study)
    return study


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


def write_recipe(row: Row, path: Path) -> None:
    """Write a row's training recipe, which `dro-trl train --config` reads."""
    text = yaml.safe_dump(row.recipe, sort_keys=False, allow_unicode=True)
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def check_recipes(study: Study) -> None:
    """Parse every method's training recipe, and compare what decides the number of its samples.

    Raises:
        ValueError: If one is faulty, if K differs, or if samples differ without `equal_samples: false`.
    """
    parsed: dict[str, dict[str, Any]] = {}
    for row in plan_rows(study)[: len(study.methods)]:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "recipe.yaml"
            write_recipe(row, path)
            try:
                script, args, _ = parse_recipe(["--config", str(path)])
            except ValueError as error:
                raise ValueError(f"method {row.method!r}: {str(error).replace(f'{path}: ', '')}") from error
        parsed[row.method] = {**vars(script), **vars(args)}
    (first, reference), *others = parsed.items()
    for method, options in others:
        for name in ("num_selected", *(SAMPLE_FIELDS if study.equal_samples else ())):
            if options[name] == reference[name]:
                continue
            differs = f"method {method!r}: {name}={options[name]!r} differs from {reference[name]!r} of {first!r}"
            if name == "num_selected":
                raise ValueError(f"{differs}, and recall@K of different K is no comparison; set them to one value")
            raise ValueError(
                f"{differs}, so that they do not learn from equal samples in equal steps; set it back, or declare an "
                "ablation with equal_samples: false (the report then says what each method drew)"
            )


def _options(arguments: Sequence[str]) -> dict[str, Any]:
    """Read `--name value`, `--name=value` and, for true, `--name`."""
    options: dict[str, Any] = {}
    rest = list(arguments)
    while rest:
        option = rest.pop(0)
        name, equals, text = option.removeprefix("--").partition("=")
        if not option.startswith("--"):
            raise ValueError(f"the command line: {option!r} belongs to no option; name a recipe with --config")
        if not equals:
            text = rest.pop(0) if rest and not rest[0].startswith("--") else "true"
        name = name.replace("-", "_")
        try:
            options[name] = yaml.load(text, RecipeLoader)
        except yaml.YAMLError as error:
            raise ValueError(f"the command line: --{name} {text!r} is not valid YAML: {error}") from error
    return options


def _check_methods(methods: Any, source: str) -> dict[str, dict[str, Any]]:
    if not isinstance(methods, dict) or not all(isinstance(value or {}, dict) for value in methods.values()):
        raise ValueError(f"{source}: methods must be `name: {{field: value}}` lines, found {methods!r}")
    folders: dict[str, str] = {}
    for method, overrides in methods.items():
        refuse_unknown(overrides or {}, known_keys() - KEYS - {"env"}, f"{source}, method {method!r}")
        _refuse_per_row(overrides or {}, f"{source}, method {method!r}")
        name = str(method)
        if name in START_SYSTEMS or name.endswith(OWN_ORDER):
            raise ValueError(f"{source}: {name!r} is the name of a baseline; give the method another one")
        if not slug(name):
            raise ValueError(f"{source}: method {name!r} has no letter or digit to name its folder by")
        if (taken := folders.setdefault(slug(name), name)) != name:
            raise ValueError(f"{source}: methods {taken!r} and {name!r} would share the folder {slug(name)!r}")
    return {str(method): dict(overrides or {}) for method, overrides in methods.items()}


def _refuse_per_row(lines: dict[str, Any], source: str) -> None:
    for name in lines:
        if name in PER_ROW:
            raise ValueError(f"{source}: {name} is not for a study; {PER_ROW[name]}")


def _check_seeds(seeds: Any, source: str) -> tuple[int, ...]:
    whole = isinstance(seeds, list) and seeds and all(type(seed) is int and seed >= 0 for seed in seeds)
    if not whole or len(set(seeds)) < len(seeds):
        raise ValueError(
            f"{source}: seeds must be a list of different whole numbers such as [0, 1, 2], found {seeds!r}"
        )
    return tuple(seeds)


def _check_numbers(own: dict[str, Any], source: str) -> None:
    least = {"max_eval_samples": 1, "max_new_tokens": 1, "eval_batch_size": 1, "num_examples": 0}
    for name, low in least.items():
        value = own.get(name, low)
        if not (type(value) is int and value >= low) and not (name == "max_eval_samples" and value is None):
            raise ValueError(f"{source}: {name}={value!r} must be a whole number of at least {low}")
    if not isinstance(own.get("equal_samples", True), bool):
        raise ValueError(f"{source}: equal_samples={own['equal_samples']!r} must be true or false")
