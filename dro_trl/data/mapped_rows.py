"""Rows that stay in the file that they are mapped from until they are read."""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, overload

import pyarrow as pa
from datasets import Dataset

from dro_trl.types import Question

_ROWS_PER_BATCH = 1_000


class MappedRows(Sequence[Question]):
    """The rows of a dataset as a sequence, of which those alone are in memory that were asked for.

    Args:
        dataset: The rows.
    """

    def __init__(self, dataset: Dataset) -> None:
        self._tables = dataset.with_format("arrow")

    def __len__(self) -> int:
        return len(self._tables)

    @overload
    def __getitem__(self, at: int) -> Question: ...
    @overload
    def __getitem__(self, at: slice) -> list[Question]: ...
    def __getitem__(self, at: int | slice) -> Question | list[Question]:
        if isinstance(at, int):
            place = range(len(self))[at]  # Which refuses what is beyond the rows, and counts from the end.
            return self[place : place + 1][0]
        start, stop, step = at.indices(len(self))
        if step != 1:
            return [self[place] for place in range(start, stop, step)]
        rows: list[Any] = self._tables[start:stop].to_pylist() if start < stop else []
        return rows

    def __iter__(self) -> Iterator[Question]:
        for start in range(0, len(self), _ROWS_PER_BATCH):
            yield from self[start : start + _ROWS_PER_BATCH]

    def digest(self) -> str:
        """Return the digest of the rows, of the same ones as long as they come in the same types."""
        digest = hashlib.sha256()
        for start in range(0, len(self), _ROWS_PER_BATCH):
            table = self._tables[start : start + _ROWS_PER_BATCH].replace_schema_metadata(None).combine_chunks()
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, table.schema) as writer:
                writer.write_table(table)
            digest.update(sink.getvalue())
        return digest.hexdigest()[:16]
