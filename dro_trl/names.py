"""Names that people write: the nearest known one, the object that a dotted path names, and where it is looked for.

Modules of a recipe are looked for after all others, so that none takes their place: a file of the working directory
may be called as a library is. Where Python puts that directory first, as for `python -m`, such a file would be
imported in the library's place.
"""

import difflib
import importlib
import os
import sys
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MODULES = "DRO_TRL_MODULES"
"""Environment variable with folders of modules, as `PYTHONPATH` has them, that are looked in last."""


def append_folders(folders: Iterable[str | Path]) -> None:
    """Have modules looked for in further folders, after all those that there are."""
    sys.path.extend(path for folder in folders if (path := str(folder)) not in sys.path)


def append_own() -> None:
    """Have modules looked for in the working directory, and where the command that started this process says."""
    named = os.environ.get(MODULES, "").split(os.pathsep)
    append_folders([os.getcwd(), *filter(None, named)])


@contextmanager
def starting_safely() -> Iterator[None]:
    """Start Python processes in this context as with `-P`, where no option can be given, as to `multiprocessing`."""
    before = os.environ.get("PYTHONSAFEPATH")
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONSAFEPATH"]
        else:
            os.environ["PYTHONSAFEPATH"] = before


def is_path(name: str) -> bool:
    """Whether a name is that of a file or folder, whether or not it is there: on no hub is anything called so."""
    return Path(name).is_absolute() or name.startswith(".") or name.count("/") > 1 or Path(name).exists()


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that is nearest to one, None where none is near."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1)), None)


def near(path: str | Path, is_folder: bool = True) -> str:
    """Return ` (did you mean …?)` of the file or folder that is there and nearest to a missing one, else nothing."""
    path = Path(path)
    there = path.parent.iterdir() if path.parent.is_dir() else ()
    found = nearest(path.name, [entry.name for entry in there if entry.is_dir() == is_folder])
    return f" (did you mean {path.parent / found}?)" if found else ""


def refuse_unknown(names: Iterable[object], known: Collection[str], source: str) -> None:
    """Refuse names that are not among the known ones.

    Raises:
        ValueError: Names the first of them, where it stands, and the known name nearest to it.
    """
    for name in names:
        if name not in known:
            near = nearest(str(name), known)
            hint = f"; did you mean {near!r}?" if near else ""
            raise ValueError(f"{source}: unknown key {name!r}{hint}")


def import_dotted(path: str, refused: str, hint: str) -> Any:
    """Return the object that a dotted path names.

    Args:
        path: For example `dro_trl.PlackettLucePolicy`.
        refused: What to say where there is none.
        hint: What to do then.

    Raises:
        ValueError: If there is none; the reason stands between the two.
    """
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{refused} ({error}); {hint}") from error
