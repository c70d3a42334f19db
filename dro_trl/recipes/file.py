"""Finding recipes, reading them as they are written, and refusing names that are not known; needs no torch."""

import difflib
import errno
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dro_trl.options.yaml_text import read_yaml

_COMMANDS = {
    "": "dro-trl train --config",
    "warmup": "dro-trl warmup selector|generator --config",
    "studies": "dro-trl compare --config",
    "runs": "dro-trl run --config",
    "accelerate": "accelerate launch --config_file",
}
"""What the recipes of each folder are given to."""


def packaged_recipes() -> dict[str, Path]:
    """Return the recipes that come with the package, by names such as `quickstart` and `studies/encyclopedia`."""
    package = Path(__file__).parents[1]
    # Where it is used from a checkout, they are beside it.
    folder = next(f for f in (package / "packaged_recipes", package.parent / "recipes") if f.is_dir())
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in sorted(folder.rglob("*.yaml"))}


def find_recipe(name: str, kind: str = "") -> Path:
    """Return the recipe that a name means: a file, else one that comes with the package.

    Args:
        name: A path from the working directory, or a name in `recipes/`; `.yaml` and `recipes/` may be left out.
        kind: Folder of `recipes/` that is looked in first, such as `studies`.

    Raises:
        FileNotFoundError: If there is neither; names what has that name among those of other commands, and what is
            nearest among the recipes of the kind.
    """
    stem = name.removesuffix(".yaml")
    for path in (Path(name), Path(f"{stem}.yaml")):
        if path.exists() and not path.is_dir():
            return path
    packaged, stem = packaged_recipes(), stem.removeprefix("recipes/")
    for known in (f"{kind}/{stem}", stem):
        if known in packaged:
            return packaged[known]
    if Path(name).is_dir():
        raise IsADirectoryError(f"{name} is a folder; name a recipe in it")
    others = [known for known in packaged if known.rpartition("/")[2] == Path(stem).name]
    said = "".join(f"; {known} is one for {_COMMANDS[known.rpartition('/')[0]]}" for known in others)
    of_kind = [known.removeprefix(f"{kind}/") for known in packaged if known.rpartition("/")[0] == kind]
    begun = [known for known in of_kind if known.startswith(Path(stem).name)]
    nearest = [*begun, *difflib.get_close_matches(Path(stem).name, set(of_kind) - set(begun), n=3, cutoff=0.4)]
    hint = f"did you mean {' or '.join(map(repr, nearest))}?" if nearest else f"these are {', '.join(of_kind)}"
    raise FileNotFoundError(errno.ENOENT, f"No such file or directory, and no recipe of that name{said}; {hint}", name)


def read_recipe(path: Path) -> dict[str, Any]:
    """Read a recipe's lines.

    Raises:
        ValueError: As `read_yaml`, and if it is not `name: value` lines.
        FileNotFoundError: If it does not exist.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not text in UTF-8 (byte {error.start}: {error.reason}); save it as UTF-8"
        ) from error
    recipe = read_yaml(text, str(path))
    if not isinstance(recipe, dict):
        found = "nothing" if recipe is None else type(recipe).__name__
        raise ValueError(f"{path} must hold `name: value` lines, found {found}")
    return recipe


def names_code(recipe: Mapping[str, Any]) -> bool:
    """Whether a training recipe trusts its models' code, or names a policy that is not dro_trl's.

    The pair that it trains then names that code, and whoever wrote the recipe trusts it.
    """
    policy = str(recipe.get("policy") or "dro_trl.")
    return bool(recipe.get("trust_remote_code")) or not policy.startswith("dro_trl.")
