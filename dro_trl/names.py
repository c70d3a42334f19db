"""Where modules that a recipe names by dotted paths are looked for: after all others, so that none takes their place.

A file of the working directory may be called as a library is. Where Python puts that directory first, as for
`python -m`, such a file would be imported in the library's place.
"""

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

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
