"""Rows of text files, checked and put into Arrow tables: many at once where Arrow can, else one by one.

Python reads the first rows of a file, and with that finds out the types of its columns. From then on Arrow parses
blocks of a JSON Lines file with these types, and what it refuses or doubts is left to Python: a row that is not as the
schema wants it, a value of another type, a new column. So all is refused, and told, as if Python had read every row.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as paj

from dro_trl.data.columns import RowStore
from dro_trl.data.row_checks import doubtful_rows
from dro_trl.data.schema import COLUMNS, RowFault, check_row
from dro_trl.files.text_rows import Numbered, is_blank, parse_json_line, read_json_blocks

ROWS_PER_BATCH = 1_000
BLOCK_BYTES = 8 * 2**20
_FEWEST_LINES = 100
_EXACT = 2**53
"""Beyond it a whole number may be another one as a float."""


class TextRowReader:
    """Checks rows and stores those without fault.

    Args:
        require_candidates: As in `check_row`.
    """

    def __init__(self, require_candidates: bool) -> None:
        self.store = RowStore()
        self.columns: set[str] = set()
        """The names that rows have, those of faulty rows among them."""
        self.faults: list[RowFault] = []
        self.num_rows = 0
        """How many rows were read."""
        self._require_candidates = require_candidates

    def add(self, numbered: Iterable[Numbered]) -> None:
        """Read rows one by one."""
        good: list[Mapping[str, Any]] = []
        for number, row in numbered:
            self.num_rows += 1
            self.columns.update(row if isinstance(row, Mapping) else ())
            if self._passes(number, row):
                good.append(row)  # type: ignore[arg-type]
            if len(good) == ROWS_PER_BATCH:
                self.store.add_rows(good)
                good = []
        if good:
            self.store.add_rows(good)

    def add_json_lines(self, path: Path) -> None:
        """Read a JSON Lines file.

        Raises:
            ValueError: It is a gzip file that is cut off or damaged.
        """
        for before, block in read_json_blocks(path, ROWS_PER_BATCH, BLOCK_BYTES):
            if before:
                self._add_block(block, before)
            else:
                self._add_lines(block.splitlines(keepends=True), before)

    def _passes(self, number: int, row: object) -> bool:
        try:
            if isinstance(row, ValueError):
                raise row
            check_row(row, require_candidates=self._require_candidates)
        except ValueError as error:
            self.faults.append(RowFault(number, str(error)))
            return False
        return True

    def _add_block(self, block: bytes, before: int) -> None:
        numbers = _row_numbers(block, before)
        table = None if numbers is None else self._as_arrow(block, len(numbers))
        if numbers is not None and table is not None:
            self._add_table(table, block, numbers, before)
            return
        lines = block.splitlines(keepends=True)
        if self.store.schema is None or len(lines) <= _FEWEST_LINES:
            self._add_lines(lines, before)
            return
        middle = len(lines) // 2
        self._add_block(b"".join(lines[:middle]), before)
        self._add_block(b"".join(lines[middle:]), before + middle)

    def _add_lines(self, lines: Sequence[bytes], before: int) -> None:
        numbered = enumerate(lines, start=before + 1)
        self.add((number, parse_json_line(line)) for number, line in numbered if not is_blank(line))

    def _as_arrow(self, block: bytes, num_rows: int) -> pa.Table | None:
        """The rows of a block, None where Arrow does not read them, or may not read them as Python does."""
        schema = self.store.schema
        if schema is None or len(block) >= 2**31:
            return None
        try:
            table = paj.read_json(
                pa.BufferReader(block),
                read_options=paj.ReadOptions(use_threads=False, block_size=len(block)),
                parse_options=paj.ParseOptions(explicit_schema=schema, unexpected_field_behavior="error"),
            )
            table.validate(full=True)
        except pa.ArrowException:
            return None
        if table.num_rows != num_rows or table.schema != schema:
            return None
        return None if any(map(_may_be_rounded, _further(table))) else table

    def _add_table(self, table: pa.Table, block: bytes, numbers: Sequence[int], before: int) -> None:
        doubtful = np.flatnonzero(doubtful_rows(table, require_candidates=self._require_candidates))
        if len(doubtful):
            good = np.ones(table.num_rows, bool)
            lines = block.splitlines(keepends=True)
            for row in doubtful.tolist():
                number = numbers[row]
                good[row] = self._passes(number, parse_json_line(lines[number - before - 1]))
            table = table.filter(pa.array(good))
        self.num_rows += len(numbers)
        if table.num_rows:
            self.store.add_table(table)


def _row_numbers(block: bytes, before: int) -> Sequence[int] | None:
    """On which line each row of a block stands; None unless each is one object on one line, to all appearances.

    If Arrow finds as many rows, that is so: between `}` and `{` an object cannot go on.
    """
    lines = block.count(b"\n")
    if b"\r" not in block and block.count(b"}\n{") == lines - 1 and block[:1] == b"{" and block[-2:] == b"}\n":
        return range(before + 1, before + 1 + lines)
    rows = [(number, row) for number, line in enumerate(block.splitlines(), before + 1) if (row := line.strip())]
    return [number for number, _ in rows] if all(row[:1] == b"{" and row[-1:] == b"}" for _, row in rows) else None


def _further(table: pa.Table) -> list[pa.Array]:
    """The columns, and the fields of passages, that the schema leaves to the user."""
    found = [table[name].combine_chunks() for name in table.column_names if name not in COLUMNS]
    if "candidates" in table.column_names:
        passages = table["candidates"].combine_chunks().flatten()
        found += [passages.field(i) for i, field in enumerate(passages.type) if field.name != "score"]
    return found


def _may_be_rounded(array: pa.Array) -> bool:
    """Whether an array holds floats that may have been other whole numbers."""
    if pa.types.is_floating(array.type):
        return bool(pc.any(pc.greater_equal(pc.abs(array), _EXACT)).as_py())
    if pa.types.is_struct(array.type):
        return any(map(_may_be_rounded, array.flatten()))
    return bool(pa.types.is_list(array.type)) and _may_be_rounded(array.flatten())
