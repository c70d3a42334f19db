"""Work in batches, and how far it has come."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

from rich.console import Console
from rich.progress import Progress, ProgressColumn

_Item = TypeVar("_Item")


def batched(items: Iterable[_Item], size: int) -> Iterator[list[_Item]]:
    """Yield the items in lists of `size`, the last of which may be shorter."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def progress_bar(count: ProgressColumn, enabled: bool) -> Progress:
    """Return a bar on standard error, which is shown where that is a terminal, and gone at its end.

    Args:
        count: The column behind the bar.
        enabled: Off shows none.
    """
    console = Console(stderr=True)
    # A bar that is off ends with an empty line in older versions of rich.
    console.quiet = not (enabled and console.is_terminal)
    columns = (*Progress.get_default_columns(), count)
    return Progress(*columns, console=console, transient=True, disable=console.quiet)
