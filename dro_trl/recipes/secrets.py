"""Recipes written with their secrets hidden, and the secrets handed on to the processes that run them."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dro_trl.files.writing import atomic_path
from dro_trl.options.masking import HIDDEN, masked
from dro_trl.options.yaml_text import dump_recipe

VARIABLE = "DRO_TRL_SECRETS"
"""Environment variable by which a command gives a process what its recipe's file hides."""


def write_recipe(recipe: Mapping[str, Any], path: Path) -> dict[str, str]:
    """Write a recipe with its secrets hidden.

    Returns:
        Environment in which `revealed` finds them again.
    """
    shown = masked(recipe)
    with atomic_path(path) as temporary:
        temporary.write_text(dump_recipe(shown), encoding="utf-8")
    return {VARIABLE: json.dumps(list(_changed(dict(recipe), shown, ())), default=str)}


def _changed(value: Any, shown: Any, path: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Yield each value that is shown otherwise, with where it stands."""
    if isinstance(value, Mapping) and isinstance(shown, Mapping):
        for key in value:
            yield from _changed(value[key], shown[key], (*path, key))
    elif isinstance(value, (list, tuple)) and isinstance(shown, (list, tuple)):
        for number, entry in enumerate(value):
            yield from _changed(entry, shown[number], (*path, number))
    elif value != shown:
        yield path, value


def revealed(recipe: dict[str, Any], source: str) -> dict[str, Any]:
    """Return a recipe with the secrets that `write_recipe` hid, as far as this process was given them.

    Args:
        recipe: As it was read; it is changed.
        source: Where from, for the error.

    Raises:
        ValueError: If one was not given.
    """
    for path, value in json.loads(os.environ.get(VARIABLE, "[]")):
        place: Any = recipe
        try:
            for step in path[:-1]:
                place = place[step]
            if HIDDEN in str(place[path[-1]]):
                place[path[-1]] = value
        except (KeyError, IndexError, TypeError):
            continue  # Of another recipe.
    for name, value in _leaves(recipe, ""):
        if isinstance(value, str) and HIDDEN in value:
            raise ValueError(
                f"{source}: {name} is {value!r}: it was hidden when this file was written; write it there, or run "
                "the command that wrote the file"
            )
    return recipe


def _leaves(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    parts = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else None
    if parts is None:
        yield name, value
    else:
        for key, entry in parts:
            yield from _leaves(entry, f"{name}.{key}" if name else str(key))
