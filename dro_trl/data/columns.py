"""Rows to an Arrow table: the schema's columns with the schema's types, and any others whatever they hold."""

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, chain, islice
from typing import Any

import pyarrow as pa

_ROW = {"question": pa.string(), "answers": pa.list_(pa.string()), "gold_ids": pa.list_(pa.string())}
_PASSAGE = {"id": pa.string(), "title": pa.string(), "text": pa.string(), "score": pa.float64()}
_ROWS_PER_BATCH = 1_000
_MOST_FIELDS = 256


def table_of_rows(rows: Iterator[Mapping[str, Any]]) -> tuple[pa.Table, list[str]]:
    """Put rows into a table, a thousand of them at a time.

    Args:
        rows: Rows that `check_row` let pass. Their further columns, and further fields of their passages, may hold
            anything that JSON can.

    Returns:
        The table, and the names of the further columns and fields whose values no type of Arrow holds together
        (numbers and text, whole numbers beyond 64 bits, objects of more than 256 fields in all): they are JSON text in
        every row.
    """
    records, passages = _Records(_ROW), _Records(_PASSAGE)
    ends: list[pa.Array] = []
    while batch := list(islice(rows, _ROWS_PER_BATCH)):
        candidates = [row.get("candidates") for row in batch]
        records.add([{name: value for name, value in row.items() if name != "candidates"} for row in batch])
        flat = chain.from_iterable(found or () for found in candidates)
        passages.add([{**passage, "score": float(passage["score"])} for passage in flat])
        ends.append(_offsets(candidates))
    tables = []
    for columns, fields, offsets in zip(records.batches(), passages.batches(), ends, strict=True):
        if fields:
            structs = pa.StructArray.from_arrays(list(fields.values()), names=list(fields))
            columns["candidates"] = pa.ListArray.from_arrays(offsets, structs)
        tables.append(pa.table(columns))
    texts = [*records.texts(), *(f"candidates[].{name}" for name in passages.texts())]
    return pa.concat_tables(tables) if tables else pa.table({}), texts


class _Records:
    """Objects with named values, batch by batch, each name a column."""

    def __init__(self, types: Mapping[str, pa.DataType]) -> None:
        self._types = types
        self._columns: dict[str, _Column] = {}
        self._sizes: list[int] = []

    def add(self, batch: Sequence[Mapping[str, Any]]) -> None:
        for name in dict.fromkeys(chain(self._columns, *batch)):
            if name not in self._columns:
                self._columns[name] = _Column(self._types.get(name))
                for size in self._sizes:
                    self._columns[name].add([None] * size)
            self._columns[name].add([record.get(name) for record in batch])
        self._sizes.append(len(batch))

    def batches(self) -> Iterator[dict[str, pa.Array]]:
        """Yield the columns of each batch, which are of one type in all."""
        # Half a surrogate pair cannot be in a name of Arrow's.
        names = [name.encode("utf-8", "backslashreplace").decode() for name in self._columns]
        columns = [column.of_one_type() for column in self._columns.values()]
        for number in range(len(self._sizes)):
            yield {name: chunks[number] for name, chunks in zip(names, columns, strict=True)}

    def texts(self) -> list[str]:
        return [name for name, column in self._columns.items() if column.is_text]


class _Column:
    """Values of Arrow while they have a type, and JSON text once they have none."""

    def __init__(self, kind: pa.DataType | None) -> None:
        self._kind = kind
        self._chunks: list[pa.Array] = []
        self.is_text = False

    def add(self, values: Sequence[Any]) -> None:
        if not self.is_text:
            try:
                _check_fields({name for value in values if isinstance(value, dict) for name in value})
                self._chunks.append(pa.array(values, self._kind))
                return
            except (pa.ArrowException, OverflowError, UnicodeError):
                self._turn_to_text()
        self._chunks.append(texts_of(values))

    def of_one_type(self) -> list[pa.Array]:
        schemas = [pa.schema([("", kind)]) for kind in dict.fromkeys(chunk.type for chunk in self._chunks)]
        if len(schemas) > 1:
            try:
                kind = pa.unify_schemas(schemas, promote_options="permissive").field(0).type
                _check_fields({field.name for field in kind} if pa.types.is_struct(kind) else ())
                # Refused where a whole number would be rounded.
                self._chunks = [chunk.cast(kind) for chunk in self._chunks]
            except pa.ArrowException:
                self._turn_to_text()
        return self._chunks

    def _turn_to_text(self) -> None:
        self.is_text = True
        self._chunks = [texts_of(chunk.to_pylist()) for chunk in self._chunks]


def _check_fields(names: Collection[str]) -> None:
    # Arrow gives every object all fields: where names are ids, that is rows x rows.
    if len(names) > _MOST_FIELDS:
        raise pa.ArrowInvalid(f"{len(names)} fields")


def texts_of(values: Iterable[Any]) -> pa.Array:
    """Return values as JSON text, nulls as they are; what JSON does not know as the text that Python gives it."""
    return pa.array([None if value is None else json.dumps(value, default=str) for value in values], pa.string())


def _offsets(lists: Sequence[Sequence[Any] | None]) -> pa.Array:
    """Where each list begins, as Arrow has it: null for one that is null; and where the last ends."""
    ends = list(accumulate((len(found or ()) for found in lists), initial=0))
    starts = [None if found is None else start for found, start in zip(lists, ends[:-1], strict=True)]
    return pa.array([*starts, ends[-1]], pa.int32())
