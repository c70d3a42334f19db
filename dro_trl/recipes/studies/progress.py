"""How far the process of a row has come, read from what it writes, and shown while one waits for it."""

import contextlib
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

PAUSE = 0.5
"""Seconds between two looks."""
PARTS = 10
"""Lines that are written of a whole where there is no terminal."""
_TAIL = 8_192
_LAST = re.compile(
    r"[\r\n] *(?:(?P<name>[^\r\n|]+?): +)?\d+%\|[^|\r\n]*\| *(?P<done>\d+)/(?P<total>\d+) \["  # A bar of tqdm's.
    r"|\n +(?P<step>[\d,]+)/(?P<steps>[\d,]+) "  # A row of training's table.
)


class Stand(NamedTuple):
    """How far a process has come."""

    name: str
    """Of what it does; nothing where its steps have no name."""
    done: int
    total: int


def last_stand(text: str) -> Stand | None:
    r"""Return the last that the end of a log says, None where it says nothing.

    >>> last_stand("  50%|#####     | 1/2 [00:01<00:01]\rtrained: answers: 100%|##########| 8/8 [00:01<00:00]")
    Stand(name='trained: answers', done=8, total=8)
    """
    if not (stands := list(_LAST.finditer(f"\n{text}"))):
        return None
    found = stands[-1]
    counts = (found["done"] or found["step"], found["total"] or found["steps"])
    done, total = (int(count.replace(",", "")) for count in counts)
    return Stand((found["name"] or "").strip(), done, total) if total else None


@contextlib.contextmanager
def showing_progress(log: Path, what: str, console: Console | None = None) -> Iterator[None]:
    """Show how far the process has come that writes a log in this context.

    On a terminal that is a line, which is gone at the end; else a line for each tenth of the work.

    Args:
        log: The file; what is in it already is of an earlier process.
        what: What to call the work, such as `training`.
        console: Where; standard output if not given.
    """
    console = console or Console(highlight=False)
    begin = log.stat().st_size if log.is_file() else 0
    with _Bar(what, console) if console.is_terminal else contextlib.nullcontext(_Lines(what, console)) as shown:
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(PAUSE):
                if (stand := last_stand(_end_of(log, begin))) is not None:
                    shown.show(stand)

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


def _end_of(log: Path, begin: int) -> str:
    if not log.is_file():
        return ""
    with log.open("rb") as file:
        file.seek(max(begin, log.stat().st_size - _TAIL))
        return file.read().decode(errors="replace")


class _Bar(contextlib.AbstractContextManager["_Bar"]):
    """A line on a terminal."""

    def __init__(self, what: str, console: Console) -> None:
        name = TextColumn("  {task.description}", table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1))
        columns = (BarColumn(bar_width=16), MofNCompleteColumn(), TimeRemainingColumn(compact=True))
        self._what, self._name = what, ""
        self._bar = Progress(name, *columns, console=console, transient=True, expand=True)
        self._task = self._bar.add_task(what, total=None)

    def __enter__(self) -> "_Bar":
        self._bar.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._bar.stop()

    def show(self, stand: Stand) -> None:
        if stand.name != self._name:  # What follows takes a time of its own.
            self._bar.reset(self._task)
            self._name = stand.name
        said = f"{self._what}: {stand.name}" if stand.name else self._what
        self._bar.update(self._task, description=said, completed=stand.done, total=stand.total)


class _Lines:
    """Lines where there is no terminal."""

    def __init__(self, what: str, console: Console) -> None:
        self._what, self._console, self._shown = what, console, ("", 0)

    def show(self, stand: Stand) -> None:
        part = stand.done * PARTS // stand.total
        if part and (stand.name, part) != self._shown:
            said = f"{self._what}: {stand.name}" if stand.name else self._what
            self._console.print(f"  {said}: {stand.done:,} of {stand.total:,}", soft_wrap=True, markup=False)
            self._shown = (stand.name, part)
