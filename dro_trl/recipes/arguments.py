"""A recipe's lines and the command line's options as typed values."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from traceback import walk_tb
from typing import Any, Literal

from pydantic import PositiveInt
from trl import ModelConfig, ScriptArguments

from dro_trl.lm.devices import AUTO
from dro_trl.names import append_folders
from dro_trl.options.masking import masked
from dro_trl.options.yaml_text import shorten
from dro_trl.recipes.options import TRAIN, Given, read_given
from dro_trl.recipes.rehearsal import rehearse
from dro_trl.trainer.dro_config import DROConfig


@dataclass
class DROScriptArguments(ScriptArguments):
    """What a recipe says beside the models and the trainer's options."""

    eval_dataset_name: str | None = field(
        default=None, metadata={"help": "File or hub name of the evaluation questions (dataset_test_split of it)."}
    )
    max_train_samples: PositiveInt | None = field(
        default=None, metadata={"help": "Train on the first so many rows only."}
    )
    reward_funcs: list[str] | None = field(
        default=None, metadata={"help": "Dotted paths of reward functions; the answer's log-likelihood where not set."}
    )
    on_bad_row: Literal["raise", "skip"] = field(
        default="raise", metadata={"help": "What to do with a row that breaks the schema."}
    )
    resume: bool = field(default=False, metadata={"help": "Go on from the last checkpoint in output_dir, if any."})


@dataclass
class RecipeModel(ModelConfig):
    """TRL's `ModelConfig`, whose number format is the machine's where none is said."""

    dtype: str | None = field(
        default=AUTO,
        metadata={
            "help": "Of the weights: float32, bfloat16, …; 'auto' is bfloat16 under adapters where the device has it, "
            "else float32, in which weights that are trained themselves keep small updates."
        },
    )
    # A field of TRL's, whose place differs between its versions.
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Run code that comes with a model, as `from_pretrained` does then."}
    )


def parse_recipe(arguments: Sequence[str]) -> tuple[DROScriptArguments, DROConfig, RecipeModel]:
    """Parse the recipe of a DRO run; see `read_given` and `make_parts`."""
    script, args, model = make_parts(read_given(arguments, TRAIN), DROConfig)
    return script, args, model


def make_parts(given: Given, options: type[Any], here: bool = True) -> tuple[DROScriptArguments, Any, RecipeModel]:
    """Return what a recipe says as the dataclasses that it is for.

    From now on modules beside the recipe and in the working directory can be imported, after all others: its dotted
    paths may lead there.

    Args:
        given: Of the recipe.
        options: The trainer's, `DROConfig` or `WarmupConfig`.
        here: Whether the recipe is to run on this machine, which must have what it asks for.

    Raises:
        ValueError: If the values cannot stand together; says where they stand.
    """
    folders = [*([given.path.resolve().parent] if given.path else []), Path.cwd()]
    append_folders(folders)
    try:
        return _make_parts(given.values, options, here)
    except Exception as error:  # Of transformers, TRL, PEFT or accelerate, and all of them of these values.
        *_, (frame, _) = walk_tb(error.__traceback__)
        ours = frame.f_globals["__name__"].partition(".")[0] == __name__.partition(".")[0]
        named = "" if ours else _culprits(given.values, options, here)
        raise ValueError(f"{given.source}: {named}{' '.join(str(error).split()) or type(error).__name__}") from error


def _make_parts(
    values: Mapping[str, Any], options: type[Any], here: bool
) -> tuple[DROScriptArguments, Any, RecipeModel]:
    known = {"bf16": None, **values}  # Which asks the device, where a program's options say False.

    def make(part: type[Any]) -> Any:
        return part(**{f.name: known[f.name] for f in fields(part) if f.init and f.name in known})

    parts = make(DROScriptArguments), make(options), make(RecipeModel)
    if here:
        rehearse(*parts[1:])
    return parts


def _culprits(values: Mapping[str, Any], options: type[Any], here: bool) -> str:
    """Name the values without each of which the rest stand together, as libraries often do not."""
    found = []
    for name, value in values.items():
        with contextlib.suppress(Exception):
            _make_parts({other: v for other, v in values.items() if other != name}, options, here)
            found.append(f"{name}={shorten(masked(value, name))}")
    return f"{', '.join(found)}: " if found else ""
