"""What the recipes of `train` and `warmup` may say, and reading it with the command line; needs no torch."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from dro_trl.names import refuse_unknown
from dro_trl.options.values import Option, check_values
from dro_trl.recipes.file import find_recipe, read_recipe
from dro_trl.recipes.option_fields import declared_options
from dro_trl.recipes.secrets import revealed

UNUSED = frozenset({"dataset_config", "ignore_bias_buffers"})
"""Fields of TRL's that nothing here heeds; a recipe that sets one is refused, as with any unknown key."""

UNUSED_IN_WARMUP = frozenset(
    "assistant_only_loss completion_only_loss dataset_kwargs dataset_num_proc dataset_streaming "
    "dataset_text_field eos_token eval_packing gradient_checkpointing gradient_checkpointing_kwargs max_length "
    "num_candidates packing packing_strategy pad_token padding_free reward_funcs shuffle_dataset "
    "truncation_mode".split()
)
"""Options of `trl.SFTConfig` for texts that are yet to be tokenized, and deprecated ones; the rewards; and streams."""

REQUIRED = ("dataset_name", "model_name_or_path")
ENV = Option(
    dict[str, str | bool | int | float],
    nullable=True,
    default=None,
    help="Environment variables that are set before the options are read; in a recipe, not on the command line.",
)


@dataclass(frozen=True)
class RecipeKind:
    """The recipes of a command."""

    parts: tuple[str, ...]
    """Dotted paths of the dataclasses whose fields are the keys."""
    unused: frozenset[str]
    """Fields that nothing heeds, which are refused."""
    folder: str = ""
    """In `recipes/`, which is looked in first."""

    @cached_property
    def options(self) -> dict[str, Option]:
        """Every key that such a recipe may have; `env` is none of the command line."""
        found = {name: o for name, o in declared_options(*self.parts).items() if name not in self.unused}
        found["bf16"] = replace(found["bf16"], default=None)  # A recipe that says nothing leaves it to the device.
        return {**found, "env": ENV}


TRAIN = RecipeKind(
    (
        "dro_trl.recipes.arguments.DROScriptArguments",
        "dro_trl.trainer.dro_config.DROConfig",
        "dro_trl.recipes.arguments.RecipeModel",
    ),
    UNUSED,
)
WARMUP = RecipeKind(
    (
        "dro_trl.recipes.arguments.DROScriptArguments",
        "dro_trl.trainer.warmup_config.WarmupConfig",
        "dro_trl.recipes.arguments.RecipeModel",
    ),
    UNUSED | UNUSED_IN_WARMUP,
    "warmup",
)
KINDS = {"train": TRAIN, "warmup": WARMUP}


@dataclass(frozen=True)
class Given:
    """A recipe with the command line's values in place of its own, each one that its option may have."""

    values: dict[str, Any]
    source: str
    """Where they stand, for errors."""
    path: Path | None = None
    """The recipe's file."""

    def with_values(self, **values: Any) -> "Given":
        """Return the same with other values."""
        return replace(self, values={**self.values, **values})


def read_given(arguments: Sequence[str], kind: RecipeKind) -> Given:
    """Read `--config recipe.yaml --name value …`, and set the environment variables that the recipe names.

    Raises:
        ValueError: If a key is unknown (the nearest known one is named), a value is none of its option's, or a
            required one is missing.
        FileNotFoundError: If the recipe does not exist.
    """
    file, words = split_arguments(arguments)
    options = {name: option for name, option in kind.options.items() if name != "env"}
    typed = typed_values(words, options)
    recipe: dict[str, Any] = {}
    path = None if file is None else find_recipe(file, kind.folder)
    if path is not None:
        recipe = revealed(read_recipe(path), str(path))
        refuse_unknown(recipe, kind.options, str(path))
        recipe = check_values(recipe, kind.options, str(path))
        set_environment(recipe.pop("env", None) or {}, str(path))
    source = "the command line" if path is None else f"{path} with the command line" if typed else str(path)
    given = Given({**recipe, **typed}, source, path)
    for name in REQUIRED:
        if not given.values.get(name):
            raise ValueError(f"{name} is not set; add it to the recipe, or pass --{name}")
    strategy = given.values.get("eval_strategy", "no")
    if strategy != "no" and not given.values.get("eval_dataset_name"):
        raise ValueError(
            f"{source}: eval_strategy={strategy!r} has nothing to evaluate on; set eval_dataset_name, or leave it 'no'"
        )
    if given.values.get("save_strategy") == "best" and not given.values.get("metric_for_best_model"):
        raise ValueError(f"{source}: save_strategy='best' does not say by what; set metric_for_best_model")
    return given


def split_arguments(arguments: Sequence[str]) -> tuple[str | None, dict[str, list[str]]]:
    """Return the file that `--config` names, and the words that follow each other option, by its name.

    Raises:
        ValueError: If `--config` names none, or a word follows no option.
    """
    found: dict[str, list[str]] = {}
    name = ""
    for word in arguments:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            name = name.replace("-", "_")
            found[name] = [value] if equals else []
        elif name:
            found[name].append(word)
        else:
            raise ValueError(f"the command line: {word!r} belongs to no option; name a recipe with --config")
    if "config" not in found:
        return None, found
    file, *rest = found.pop("config") or [""]
    if not file:
        raise ValueError("--config names no file; write --config recipe.yaml")
    _refuse_rest(rest)
    return file, found


def typed_values(words: Mapping[str, Sequence[str]], options: Mapping[str, Option]) -> dict[str, Any]:
    """Return what `split_arguments` found as values: of a switch `--name` and `--no_name`, of a list several words.

    Raises:
        ValueError: If an option is unknown, or has no value or one that it may not have.
    """
    values: dict[str, Any] = {}
    switches = {f"no_{name}": name for name, option in options.items() if option.has(bool)}
    refuse_unknown(words, [*options, *switches], "the command line")
    for name, given in words.items():
        if name in switches and name not in options:
            _refuse_rest(given)
            values[switches[name]] = False
        elif not given:
            if not options[name].has(bool):
                raise ValueError(f"the command line: --{name} has no value; write --{name} VALUE")
            values[name] = True
        else:
            several = options[name].has(list) and len(given) > 1
            _refuse_rest([] if several else given[1:])
            values |= check_values({name: list(given) if several else given[0]}, options, "the command line")
    return values


def set_environment(env: Mapping[str, Any], source: str) -> None:
    """Set a recipe's environment variables.

    Raises:
        ValueError: If a name is none of a variable.
    """
    for name, value in env.items():
        if not name or "=" in name:
            raise ValueError(f"{source}: env: {name!r} is no name of an environment variable")
        os.environ[name] = str(value)


def _refuse_rest(words: Sequence[str]) -> None:
    if words:
        raise ValueError(f"the command line: {words[0]!r} belongs to no option; name a recipe with --config")
