"""Rows that Arrow holds: in memory while they are few, and in a file that is mapped into memory when they are many."""

import atexit
import contextlib
import fcntl
import functools
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
from datasets import Dataset

MOST_IN_MEMORY = 32 * 2**20
"""Bytes of rows that are not worth a file."""
_LOCK_NAME = ".lock"


class RowFile:
    """Tables of one schema, one below the other.

    Args:
        schema: What all are of.
        most_in_memory: From how many bytes on they go to a file, which is removed when this process ends.
    """

    def __init__(self, schema: pa.Schema, most_in_memory: int | None = None) -> None:
        self.schema = schema
        self._most = MOST_IN_MEMORY if most_in_memory is None else most_in_memory
        self._held: list[pa.Table] = []
        self.held_bytes = 0
        self._path: Path | None = None
        self._writer: pa.RecordBatchStreamWriter | None = None

    def write(self, table: pa.Table) -> None:
        """Add rows.

        Raises:
            OSError: There is no room for the file; names its folder.
        """
        if self._path is None:
            self._held.append(table)
            self.held_bytes += table.nbytes
            if self.held_bytes <= self._most:
                return
            self._path = _process_folder() / f"{uuid.uuid4().hex}.arrow"
            held, self._held, self.held_bytes = self._held, [], 0
        else:
            held = [table]
        try:
            if self._writer is None:
                self._writer = pa.ipc.new_stream(str(self._path), self.schema)
            for one in held:
                self._writer.write_table(one)
        except OSError as error:
            raise OSError(
                error.errno,
                f"rows are kept there while this process runs ({error}); make room, or set DRO_TRL_CACHE to a folder "
                "that has it",
                str(self._path.parent),
            ) from error

    def dataset(self) -> Dataset:
        """Return the rows; to be called when all are written."""
        if self._path is None:
            return Dataset(pa.concat_tables(self._held) if self._held else self.schema.empty_table())
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        return Dataset.from_file(str(self._path))

    def tables(self) -> Iterator[pa.Table]:
        """Yield the rows as they were written."""
        for batch in self.dataset().data.to_batches():
            yield pa.Table.from_batches([batch])


def dataset_of(tables: Iterable[pa.Table], schema: pa.Schema) -> Dataset:
    """Return a dataset of tables that come one after the other, none of which is kept in memory if they are many."""
    file = RowFile(schema)
    for table in tables:
        file.write(table)
    return file.dataset()


def cache_root() -> Path:
    """Return the folder of what this package keeps: `$DRO_TRL_CACHE`, or `~/.cache/dro_trl`."""
    return Path(os.environ.get("DRO_TRL_CACHE") or Path.home() / ".cache" / "dro_trl").expanduser()


def _process_folder() -> Path:
    return _folder_of(os.getpid())


@functools.cache
def _folder_of(pid: int) -> Path:
    """Make the folder of a process's files, in the system's temporary folder where the cache cannot be written."""
    try:
        folder = _claim(cache_root() / "rows")
    except OSError:
        folder = _claim(Path(tempfile.gettempdir()) / f"dro_trl-rows-{os.getuid()}")
    # Processes that were forked off leave it to this one.
    atexit.register(lambda: shutil.rmtree(folder, ignore_errors=True) if os.getpid() == pid else None)
    return folder


def _claim(parent: Path) -> Path:
    """Make a folder under a lock that ends with this process; remove those of processes that were killed."""
    parent.mkdir(parents=True, exist_ok=True)
    for left in parent.iterdir():
        with contextlib.suppress(OSError), (left / _LOCK_NAME).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(left)
    while True:
        folder = Path(tempfile.mkdtemp(dir=parent))
        descriptor = os.open(folder / _LOCK_NAME, os.O_CREAT | os.O_RDWR, 0o600)
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_nlink:
                return folder
        os.close(descriptor)  # Another process came before the lock, and took the folder for one that was left.
