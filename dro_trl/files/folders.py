"""Folders that a command owns: one at a time, whole or not at all, and never in the place of what others made."""

import contextlib
import fcntl
import glob
import json
import os
import shlex
import shutil
import socket
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from dro_trl.files.writing import made_folder, make_folder, sync_folder

_LOCK_NAME = ".lock"
_TRIES, _PAUSE = 5, 0.05  # seconds
_owned: set[Path] = set()


@contextlib.contextmanager
def whole_folder(target: Path, is_own: Callable[[Path], bool]) -> Iterator[Path]:
    """Yield an empty folder beside `target`, which takes its place at the end; after an error nothing is left of it.

    What a killed process left of such a folder is removed by the next one that makes `target`.

    Args:
        target: The folder to make or to replace.
        is_own: Whether a file, given relative to `target`, is one that the command writes; only a folder that holds
            nothing else is replaced.

    Raises:
        FileExistsError: If `target` is a file, or holds something else.
        BlockingIOError: If another process is making it.
    """
    target = target.resolve()
    check_replaceable(target, is_own)
    with locked_beside(target):
        _remove(target, "partial")
        partial = _beside(target, "partial")
        partial.mkdir()
        try:
            yield partial
            for file in (path for path in partial.rglob("*") if path.is_file()):
                with file.open("rb") as opened:
                    os.fsync(opened.fileno())
            check_replaceable(target, is_own)  # Again, since much may have happened meanwhile.
            if target.exists():
                target.rename(_beside(target, "old"))
            partial.rename(target)
            sync_folder(target.parent)
            _remove(target, "old")  # Also that of a process which was killed between the two steps above.
        except Exception as error:
            _name_target(error, str(partial), str(target))
            raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def check_replaceable(folder: Path, is_own: Callable[[Path], bool]) -> None:
    """Check that a folder, if it exists, holds nothing but what a command writes.

    Args:
        folder: The folder.
        is_own: As in `whole_folder`.

    Raises:
        FileExistsError: If it is a file, or names what it holds beside.
    """
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file; give the path of a folder")
    for parent, names, files in os.walk(folder):
        links = [name for name in names if os.path.islink(os.path.join(parent, name))]
        for name in sorted(files + links):
            path = Path(parent, name).relative_to(folder)
            if not is_own(path):
                raise FileExistsError(
                    f"{folder} holds {path}, which this command does not write; it is not overwritten, give another "
                    "folder"
                )


def check_unwritten(folder: Path, written: Sequence[str], signs: Sequence[str]) -> None:
    """Check that what a program is to write into a folder replaces nothing but what it wrote before.

    Args:
        folder: The folder; it need not exist.
        written: Names of what is written.
        signs: Patterns of names that only the program leaves; where one is there, all is its own.

    Raises:
        FileExistsError: If something is there and none of the signs; names both.
    """
    if any(next(folder.glob(sign), None) for sign in signs):
        return
    for name in written:
        if os.path.lexists(folder / name):
            raise FileExistsError(
                f"{folder} holds {name}, which would be replaced, and nothing says that this command wrote it (no "
                f"{' or '.join(signs)}); give another folder"
            )


@contextlib.contextmanager
def owned(folder: Path, by_this_process: bool = True) -> Iterator[None]:
    """Hold the lock of a folder that this program writes; once more in the same process does nothing.

    Args:
        folder: Made where it does not exist, and taken away again if it is empty at the end.
        by_this_process: Off in the processes of a program that leave this to the first.

    Raises:
        BlockingIOError: If another process holds it; says which.
    """
    real = folder.resolve()
    if not by_this_process or real in _owned:
        yield
        return
    with locked(folder) as descriptor:
        _owned.add(real)
        try:
            yield
        finally:
            _owned.discard(real)
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # Workers that were forked meanwhile would go on to hold it.


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[int]:
    """Hold the lock of a folder, and yield the file descriptor by which processes that are started hold it too.

    Args:
        folder: Made where it does not exist, and taken away again if it is empty at the end.

    Raises:
        BlockingIOError: If another process holds it, or one that it started and left; says which.
    """
    with _locked(folder / _LOCK_NAME, folder) as descriptor:
        yield descriptor


@contextlib.contextmanager
def locked_beside(target: Path) -> Iterator[None]:
    """Hold the lock of a file or folder that takes its place as a whole, and need not exist yet.

    Raises:
        BlockingIOError: If another process holds it; says which.
    """
    with _locked(_beside(target, "lock", unique=False), target):
        yield


@contextlib.contextmanager
def _locked(file: Path, folder: Path) -> Iterator[int]:
    with made_folder(file.parent):
        descriptor = _acquire(file, folder)
        try:
            holder = {"pid": os.getpid(), "host": socket.gethostname(), "command": shlex.join(sys.argv)}
            holder["since"] = datetime.now(UTC).isoformat(timespec="seconds")
            with contextlib.suppress(OSError):  # On a full disk the lock holds all the same.
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, json.dumps(holder).encode(), 0)
            yield descriptor
        finally:
            os.close(descriptor)
            _remove_lock(file)


def _acquire(file: Path, folder: Path) -> int:
    for attempt in range(_TRIES):
        make_folder(file.parent)  # Empty, another process may have taken it away.
        try:
            descriptor = os.open(file, os.O_CREAT | os.O_RDWR, 0o666)
        except FileNotFoundError:
            continue
        except OSError as error:
            error.filename = str(folder)
            raise
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = _describe(os.pread(descriptor, 65_536, 0))
            os.close(descriptor)
            if attempt < _TRIES - 1:
                time.sleep(_PAUSE)  # It may only just be ending.
                continue
            raise BlockingIOError(f"{folder} is in use{holder}; wait, end it, or give another path") from error
        if _is_still(descriptor, file):
            return descriptor
        os.close(descriptor)  # Removed by the process that held it; a new file is the lock now.
    raise BlockingIOError(f"{folder} is in use by processes that take turns; wait, or give another path")


def _describe(content: bytes) -> str:
    try:
        holder = json.loads(content)
        who = f"process {holder['pid']} on {holder['host']}, or one that it started, since {holder['since']}"
    except (ValueError, KeyError, TypeError):
        return " by another process"
    return f" by {who}: {holder['command']}"


def _is_still(descriptor: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), file.stat())
    except FileNotFoundError:
        return False


def _remove_lock(file: Path) -> None:
    """Remove a lock that nobody holds: not where a process that was started and left still does."""
    with contextlib.suppress(OSError), file.open("rb") as opened:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_still(opened.fileno(), file):
            file.unlink()


def _remove(target: Path, suffix: str) -> None:
    for left in target.parent.glob(f".{glob.escape(target.name)}.*.{suffix}"):
        if left.is_dir():
            shutil.rmtree(left)


def _beside(target: Path, suffix: str, unique: bool = True) -> Path:
    return target.with_name(
        f".{target.name}.{uuid.uuid4().hex[:8]}.{suffix}" if unique else f".{target.name}.{suffix}"
    )


def _name_target(error: Exception, partial: str, target: str) -> None:
    """Let a message name the folder that was asked for and not the one that stands for it."""
    if isinstance(error, OSError) and isinstance(error.filename, str):
        error.filename = error.filename.replace(partial, target)
    if error.args and isinstance(error.args[0], str):
        error.args = (error.args[0].replace(partial, target), *error.args[1:])
