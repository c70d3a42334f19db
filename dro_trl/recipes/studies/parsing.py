"""Reading a study's recipe, and refusing what cannot be compared, before anything is run."""

import os
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dro_trl.names import refuse_unknown
from dro_trl.options.renamed import with_new_names
from dro_trl.options.values import check_values, options_of
from dro_trl.recipes.file import find_recipe, read_recipe
from dro_trl.recipes.options import TRAIN, split_arguments, typed_values
from dro_trl.recipes.paths import LINES, check_lines
from dro_trl.recipes.secrets import write_recipe
from dro_trl.recipes.studies.plan import OWN_ORDER, START_SYSTEMS, Row, Study, plan_rows, slug

SAMPLE_FIELDS = (
    "dataset_name",
    "dataset_train_split",
    "dataset_streaming",
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

OWN = {name: option for name, option in options_of(Study).items() if name != "recipe"}
OWN["methods"] = replace(
    OWN["methods"], annotation=dict[str | int, dict[str, Any] | None]
)  # As written; one that sets nothing is the recipe's.
"""Keys of a study's own."""


def parse_study(arguments: Sequence[str], there: bool = False) -> Study:
    """Parse `--config study.yaml --name value …`.

    Args:
        arguments: Of the command line.
        there: Whether to look first at what the rows read, and where they are written.

    Raises:
        OSError: If that is not there.
        ValueError: If a key is unknown (the nearest known one is named), missing or of the wrong kind; if a method's
            recipe is faulty; or if methods differ in their samples and `equal_samples` is not false.
        FileNotFoundError: If the file does not exist.
    """
    file, words = split_arguments(arguments)
    if file is None:
        raise ValueError("--config names no file; write --config study.yaml")
    options = {**TRAIN.options, **OWN}
    typed = typed_values(with_new_names(words, "compare", "the command line"), options)
    path = find_recipe(file, "studies")
    source = str(path)
    lines = with_new_names(read_recipe(path), "compare", source)
    refuse_unknown(lines, options, source)
    lines = check_values(lines, options, source) | typed
    for name in ("methods", "eval_dataset_name", "output_dir"):
        if not lines.get(name):
            raise ValueError(f"{source}: {name} is not set; add it to the study's recipe")
    own = {name: lines.pop(name) for name in sorted(OWN.keys() & lines.keys())}
    own["methods"] = _check_methods(own["methods"], source)
    _refuse_per_row(lines, source)
    own["seeds"] = _check_seeds(own.get("seeds", [0]), source)
    study = Study(recipe=lines, **own)
    if there:
        check_paths_of(study, source)
    study = decide_place(study, source)
    check_recipes(study)
    return study


def check_paths_of(study: Study, source: str) -> None:
    """Look at what the rows of a study name, as `check_lines` does."""
    check_lines({**study.recipe, "eval_dataset_name": study.eval_dataset_name, "output_dir": study.output_dir}, source)
    for method, overrides in study.methods.items():
        check_lines({**study.recipe, **overrides}, f"{source}, method {method!r}", LINES.keys() - overrides.keys())


def decide_place(study: Study, source: str) -> Study:
    """Put the device and the number format that rows are evaluated in where the study says `auto`.

    Raises:
        ValueError: If there is no such device or format.
    """
    from dro_trl.lm.devices import choose_device, choose_dtype, name_of  # With torch, which takes seconds to import.

    try:
        device = choose_device(study.eval_device)
        dtype = choose_dtype(study.eval_dtype, device)
    except ValueError as error:
        raise ValueError(f"{source}: eval_{error}") from error
    return replace(study, eval_device=str(device), eval_dtype=name_of(dtype))


def parse_row(row: Row) -> tuple[Any, Any, Any]:
    """Parse a row's training recipe; returns its script arguments, its `DROConfig` and its `RecipeModel`.

    Raises:
        ValueError: If it is faulty; names the method.
    """
    from dro_trl.recipes.arguments import parse_recipe  # With torch, which takes seconds to import.

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recipe.yaml"
        os.environ.update(write_recipe(row.recipe, path))
        try:
            return parse_recipe(["--config", str(path)])
        except ValueError as error:
            raise ValueError(f"method {row.method!r}: {str(error).replace(f'{path}: ', '')}") from error


def check_inputs_of(rows: Iterable[Row]) -> None:
    """Look at the data and the models that rows read, each once, before any is run.

    Raises:
        ValueError: As `dro_trl.recipes.building.check_inputs`.
        OSError: As `dro_trl.recipes.building.check_inputs`.
    """
    from dro_trl.recipes.building import check_inputs

    seen = set()
    for row in rows:
        script, args, model = parse_row(row)
        read = repr((script, model.model_name_or_path, args.generator_name_or_path))
        if read not in seen:
            check_inputs(script, args, model)
        seen.add(read)


def check_recipes(study: Study) -> None:
    """Parse every method's training recipe, and compare what decides the number of its samples.

    Raises:
        ValueError: If one is faulty, if K differs, or if samples differ without `equal_samples: false`.
    """
    parsed: dict[str, dict[str, Any]] = {}
    for row in plan_rows(study)[: len(study.methods)]:
        script, args, _ = parse_row(row)
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


def _check_methods(methods: dict[Any, dict[str, Any] | None], source: str) -> dict[str, dict[str, Any]]:
    folders: dict[str, str] = {}
    for method, overrides in methods.items():
        where = f"{source}, method {method!r}"
        refuse_unknown(overrides or {}, TRAIN.options.keys() - OWN.keys() - {"env"}, where)
        check_values(overrides or {}, TRAIN.options, where)
        _refuse_per_row(overrides or {}, where)
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


def _check_seeds(seeds: list[int], source: str) -> tuple[int, ...]:
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(
            f"{source}: seeds must be a list of different whole numbers such as [0, 1, 2], found {seeds!r}"
        )
    return tuple(seeds)
