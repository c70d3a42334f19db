"""Files that appear whole or not at all, and never in the place of something that was not to be replaced."""

import contextlib
import errno
import fcntl
import glob
import json
import os
import random
import re
import shutil
import stat
import sys
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
_PATIENCE, _PAUSE = 2.0, 0.005  # seconds


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a path to write to, which takes the place of `path` at the end; after an error nothing is left of it.

    Of a symbolic link the target is written, and a stream of this process (`/dev/stdout`) gets the whole content at
    the end. What a killed process left is removed by the next one that writes `path`.

    Args:
        path: Where the file goes; its folder is made where it is missing.

    Raises:
        OSError: If it cannot be written, or is a folder, a device or a pipe.
    """
    if (descriptor := stream_descriptor(path)) is not None:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder) / "stream"
            put_in_place(Path(folder) / "stream", path)
        return
    target = output_file(path)
    temporary = target
    try:
        with made_folder(target.parent):
            descriptor, temporary = _claim_beside(target)
            try:
                yield temporary
                os.fsync(descriptor)  # Else a loss of power could leave the new name with nothing in it.
                put_in_place(temporary, path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
            finally:
                os.close(descriptor)
    except OSError as error:
        if error.filename in (str(temporary), str(target)) or (error.filename is None and error.errno in _DISK_ERRORS):
            error.filename, error.filename2 = str(path), None
            if error.errno in _DISK_ERRORS:
                error.strerror = f"{error.strerror}; nothing is left of it" + (", the old one stays" * target.exists())
        raise


def make_folder(folder: Path) -> None:
    """Make a folder and those above it where they are missing, also while other processes take them away."""
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            return folder.mkdir(parents=True, exist_ok=True)
        except (FileNotFoundError, FileExistsError):
            if _is_in_the_way(folder) or time.monotonic() > until:
                raise
            time.sleep(_PAUSE * random.random())


def _is_in_the_way(folder: Path) -> bool:
    """Whether something is there that is no folder, by one look: between two it may come or go."""
    try:
        return not stat.S_ISDIR(os.lstat(folder).st_mode)
    except OSError:
        return False


@contextlib.contextmanager
def made_folder(folder: Path) -> Iterator[None]:
    """Make a folder and those above it where they are missing, and at the end take those away that are still empty."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        make_folder(folder)
        yield
    finally:
        with contextlib.suppress(OSError):  # Of the first that holds something, or is gone.
            for path in missing:
                path.rmdir()


def put_in_place(written: Path, path: Path) -> None:
    """Let a file that is whole, and on the disk, take the place of `path`, or go to the stream that it names.

    Args:
        written: The file, in the folder of `path`, unless that is a stream.
        path: As `atomic_path` takes it.
    """
    if (descriptor := stream_descriptor(path)) is not None:
        sys.stdout.flush()
        with written.open("rb") as file, os.fdopen(os.dup(descriptor), "wb") as stream:
            shutil.copyfileobj(file, stream)
        return
    target = output_file(path)
    if target.exists():
        os.chmod(written, stat.S_IMODE(target.stat().st_mode))
    os.replace(written, target)
    sync_folder(target.parent)


def _claim_beside(target: Path) -> tuple[int, Path]:
    """Make a new file beside `target` under a lock that ends with this process; remove those of processes that ended.

    Returns:
        The descriptor that holds the lock, and the file.
    """
    with contextlib.suppress(FileNotFoundError):  # Of the folder, which another process may take away, as it is empty.
        for left in target.parent.glob(f".{glob.escape(target.name)}.*.partial"):
            with contextlib.suppress(OSError), left.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                left.unlink()
    while True:
        path = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.partial")
        descriptor = _new_file(path)
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_nlink:
                return descriptor, path
        os.close(descriptor)  # Another process came before the lock, and took the file for one that was left.


def _new_file(path: Path) -> int:
    """Open a file that is not there yet, also while other processes take its folder away, as it is empty."""
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            return os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
        except FileNotFoundError:
            if time.monotonic() > until:
                raise
            make_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Have the names in a folder written to the disk, where the file system can."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def stream_descriptor(path: Path) -> int | None:
    """Return the descriptor of this process that a path names (`/dev/stdout`, `/dev/fd/63`), None for any other."""
    named = re.fullmatch(r"/(?:dev|proc/self)/fd/(\d+)", str(path))
    return int(named[1]) if named else {"/dev/stdout": 1, "/dev/stderr": 2}.get(str(path))


def output_file(path: Path) -> Path:
    """Return the file that is written for `path`, which need not exist: the target, where that is a symbolic link.

    Raises:
        OSError: If it is there and no regular file.
    """
    target = Path(os.path.realpath(path))
    try:
        mode = os.lstat(target).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return target
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(f"{path} is a folder; give the path of a file")
    if not stat.S_ISREG(mode):
        raise FileExistsError(
            f"{path} is no regular file but a device, a pipe or the like, which is not replaced; give the path of a "
            "file, or /dev/stdout"
        )
    return target


def check_outputs(outputs: Mapping[str, Path | None], inputs: Mapping[str, Path | None]) -> None:
    """Refuse outputs that cannot be written, or would replace what is read, before any work is done.

    Args:
        outputs: Files to write, by the names of their options.
        inputs: Files and folders to read, by theirs.

    Raises:
        ValueError: If an output is an input, lies in a folder that is one, or is the file of another output.
        OSError: If an output is no regular file, or its folder cannot be written to.
    """
    seen: dict[Path, str] = {}
    for option, path in outputs.items():
        if path is None or stream_descriptor(path) is not None:
            continue
        target = output_file(path)
        for source, read in inputs.items():
            if read is not None and read.exists() and _holds(read, target):
                raise ValueError(f"{option} {path} would replace what is read ({source} {read}); give another file")
        if target in seen:
            raise ValueError(f"{option} {path} is the file of {seen[target]} as well; give each its own")
        seen[target] = option
        folder = next(parent for parent in target.parents if parent.exists())
        if not folder.is_dir():
            raise NotADirectoryError(f"{option} {path}: {folder} is no folder")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(f"{option} {path}: no permission to write in {folder}")


def _holds(read: Path, target: Path) -> bool:
    """Whether a file is `read`, by whatever name, or lies in it."""
    return (target.exists() and target.samefile(read)) or Path(os.path.realpath(read)) in target.parents


def write_json(path: Path, value: Any, allow_nan: bool = True) -> None:
    """Write a JSON value atomically.

    Args:
        path: The file.
        value: What it holds.
        allow_nan: Whether NaN and infinities are written, which only some readers take.

    Raises:
        ValueError: If a number is NaN or infinite, without `allow_nan`.
        TypeError: If it is no JSON value.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=allow_nan)
    with atomic_path(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def load_json(path: Path, remedy: str, foreign: bool = False) -> Any:
    """Read a JSON file.

    Args:
        path: The file.
        remedy: What to do where it is damaged, such as `"delete it, and …"`.
        foreign: Whether another program may have written it: of a key that stands twice the last counts, as it does
            there, where one of this package's own is refused.

    Raises:
        FileNotFoundError: If it does not exist.
        ValueError: If it is cut off or otherwise no JSON, or a key stands twice; names the file and the remedy.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=dict if foreign else _each_key_once)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is cut off or damaged ({error}); {remedy}") from error


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"{key!r} stands there twice, as {found[key]!r:.50} and as {value!r:.50}")
        found[key] = value
    return found


def load_object(path: Path, remedy: str, *keys: str, foreign: bool = False) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Args:
        path: As in `load_json`, as are `remedy` and `foreign`.
        remedy: What to do.
        *keys: Those that it has to have.
        foreign: Whether another program may have written it.

    Raises:
        FileNotFoundError: If it does not exist.
        ValueError: As `load_json`, or if it holds something else, or lacks a key.
    """
    value = load_json(path, remedy, foreign)
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds {type(value).__name__} where a JSON object is wanted; {remedy}")
    if lost := [key for key in keys if key not in value]:
        raise ValueError(f"{path} lacks {', '.join(lost)}; {remedy}")
    return value


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows atomically, as JSON Lines in UTF-8."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
