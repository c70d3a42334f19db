"""Folders that appear whole or not at all, however their making ends."""

import contextlib
import fcntl
import glob
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def partial_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder beside `target`, which takes its place at the end; after an error nothing is left of it.

    A process that is killed cannot remove its folder. It holds a lock on it, which ends with the process, so that the
    next one that makes `target` removes it.

    Args:
        target: The folder to make or to replace.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(target)
    partial = _beside(target, "partial")
    partial.mkdir()
    try:
        with _locked(partial):
            yield partial
            _move(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _remove_abandoned(target: Path) -> None:
    for folder in target.parent.glob(f".{glob.escape(target.name)}.*.partial"):
        with contextlib.suppress(OSError), _locked(folder):
            shutil.rmtree(folder)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder.

    Raises:
        BlockingIOError: Another process holds it.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _move(source: Path, target: Path) -> None:
    if target.exists():
        target.rename(_beside(target, "old"))
    source.rename(target)
    # Also that of a process which was killed between the two steps above.
    for old in target.parent.glob(f".{glob.escape(target.name)}.*.old"):
        shutil.rmtree(old)


def _beside(target: Path, suffix: str) -> Path:
    return target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.{suffix}")
