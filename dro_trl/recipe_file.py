"""Reading recipes as they are written, and refusing names that are not known; needs no torch."""

import difflib
import re
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import yaml


class RecipeLoader(yaml.SafeLoader):
    """Reads `3e-4` as the number that it is; YAML 1.1 wants `3.0e-4`."""


RecipeLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def read_recipe(path: Path) -> dict[str, Any]:
    """Read a recipe's lines.

    Raises:
        ValueError: If it is not YAML, or not `name: value` lines.
        FileNotFoundError: If it does not exist.
    """
    try:
        recipe = yaml.load(path.read_text(encoding="utf-8"), RecipeLoader)
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(recipe, dict):
        raise ValueError(f"{path} must hold `name: value` lines, found {type(recipe).__name__}")
    return recipe


def refuse_unknown(names: Iterable[object], known: Collection[str], source: str) -> None:
    """Refuse names that are not among the known ones.

    Raises:
        ValueError: Names the first of them, where it stands, and the known name nearest to it.
    """
    for name in names:
        if name not in known:
            nearest = difflib.get_close_matches(str(name), known, n=1)
            hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
            raise ValueError(f"{source}: unknown key {name!r}{hint}")
