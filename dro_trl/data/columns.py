"""Rows to Arrow tables: the schema's columns with the schema's types, and any others whatever they hold."""

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, concatenate_datasets

from dro_trl.data.row_files import MOST_IN_MEMORY, RowFile, dataset_of

_ROW = {"question": pa.string(), "answers": pa.list_(pa.string()), "gold_ids": pa.list_(pa.string())}
_PASSAGE = {"id": pa.string(), "title": pa.string(), "text": pa.string(), "score": pa.float64()}
_PASSAGES = "candidates"
_MOST_FIELDS = 256
_MOST_LEVELS = 32
"""Of lists and objects in each other: Arrow itself passes on no more than 64, around which `datasets` puts its own."""


class RowStore:
    """Rows that come a batch at a time, in tables of the types that have been found to hold all so far.

    Their further columns, and further fields of their passages, may hold anything that JSON can. Those whose values no
    type of Arrow holds together (numbers and text, whole numbers beyond 64 bits, objects of more than 256 fields in
    all, lists and objects of more than 32 levels) are JSON text in every row.
    """

    def __init__(self) -> None:
        self._records, self._passages = _Types(_ROW), _Types(_PASSAGE)
        self._files: list[tuple[RowFile, frozenset[str]]] = []
        """Each with the columns that were JSON text when it was written."""

    @property
    def schema(self) -> pa.Schema | None:
        """What a table has to be of that holds more such rows; None where some of their values must be JSON text."""
        return None if self.texts or not self._files else self._schema()

    @property
    def texts(self) -> list[str]:
        """The further columns, and fields of passages (`candidates[].name`), that are JSON text."""
        return [*self._records.texts, *(f"{_PASSAGES}[].{name}" for name in self._passages.texts)]

    def add_rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add rows that `check_row` let pass."""
        columns = self._records.arrays([{k: v for k, v in row.items() if k != _PASSAGES} for row in rows])
        candidates = [row.get(_PASSAGES) for row in rows]
        flat = chain.from_iterable(found or () for found in candidates)
        fields = self._passages.arrays([{**passage, "score": float(passage["score"])} for passage in flat])
        if fields:
            lengths = pa.array([None if found is None else len(found) for found in candidates], pa.int32())
            columns[_PASSAGES] = _list_array(lengths, fields)
        self.add_table(pa.table(columns))

    def add_table(self, table: pa.Table) -> None:
        """Add rows of `schema`."""
        texts = frozenset(self.texts)
        if not self._files or self._files[-1][0].schema != table.schema or self._files[-1][1] != texts:
            held = sum(file.held_bytes for file, _ in self._files)
            self._files.append((RowFile(table.schema, max(MOST_IN_MEMORY - held, 0)), texts))
        self._files[-1][0].write(table)

    def dataset(self) -> Dataset:
        """Return all rows, each column of one type."""
        parts: list[Dataset] = []
        for file, texts in self._files:
            schema = self._schema()
            if file.schema == schema and texts == frozenset(self.texts):
                parts.append(file.dataset())
                continue
            try:
                parts.append(dataset_of((self._converted(table, texts) for table in file.tables()), schema))
            except _NoCommonType:
                return self.dataset()  # With one more column of JSON text.
        return concatenate_datasets(parts) if parts else Dataset(pa.table({}))

    def _schema(self) -> pa.Schema:
        columns = self._records.types()
        if fields := self._passages.types():
            columns[_PASSAGES] = pa.list_(pa.struct(list(fields.items())))
        return pa.schema(list(columns.items()))

    def _converted(self, table: pa.Table, texts: Collection[str]) -> pa.Table:
        """A table that was written earlier, with the types that have been found since."""
        columns = {name: table[name].combine_chunks() for name in table.column_names}
        passages = columns.pop(_PASSAGES, None)
        converted = self._records.converted(columns, table.num_rows, texts)
        if self._passages.types():
            lengths, fields, size = pa.nulls(table.num_rows, pa.int32()), {}, 0
            if passages is not None:
                flat = passages.flatten()
                lengths, fields, size = pc.list_value_length(passages), _fields(flat), len(flat)
            known = {name.removeprefix(f"{_PASSAGES}[].") for name in texts if name.startswith(f"{_PASSAGES}[].")}
            converted[_PASSAGES] = _list_array(lengths, self._passages.converted(fields, size, known))
        return pa.table(converted)


class _NoCommonType(Exception):
    """A column turned out to hold what its type does not."""


class _Types:
    """The types of objects' values by their names, as they are found."""

    def __init__(self, fixed: Mapping[str, pa.DataType]) -> None:
        self._fixed = fixed
        self._found: dict[str, pa.DataType] = {}
        self.texts: list[str] = []

    def types(self) -> dict[str, pa.DataType]:
        return {_shown(name): kind for name, kind in self._found.items()}

    def arrays(self, records: Sequence[Mapping[str, Any]]) -> dict[str, pa.Array]:
        names = dict.fromkeys(chain(self._found, *records))
        return {_shown(name): self._array(name, [record.get(name) for record in records]) for name in names}

    def converted(self, columns: Mapping[str, pa.Array], size: int, texts: Collection[str]) -> dict[str, pa.Array]:
        return {_shown(name): self._convert(name, columns.get(_shown(name)), size, texts) for name in self._found}

    def _array(self, name: str, values: Sequence[Any]) -> pa.Array:
        if name not in self.texts:
            try:
                _check_fields({key for value in values if isinstance(value, dict) for key in value})
                if any("\0" in key for key in _keys(values)):
                    raise pa.ArrowInvalid("Arrow cuts the name of a field at such a sign")
                array = pa.array(values, self._fixed.get(name))
                _check_levels(array.type)
                kind = _common_type(self._found.get(name, array.type), array.type)
                array = _cast(array, kind)
                self._found[name] = kind
                return array
            except (pa.ArrowException, OverflowError, RecursionError, UnicodeError):
                self._turn_to_text(name)
        return texts_of(values)

    def _convert(self, name: str, array: pa.Array | None, size: int, texts: Collection[str]) -> pa.Array:
        if array is None:
            return pa.nulls(size, self._found[name])
        if name in self.texts:
            return array if name in texts else texts_of(array.to_pylist())
        try:
            return _cast(array, self._found[name])
        except pa.ArrowException as error:
            self._turn_to_text(name)
            raise _NoCommonType from error

    def _turn_to_text(self, name: str) -> None:
        self.texts.append(name)
        self._found[name] = pa.string()


def _common_type(first: pa.DataType, second: pa.DataType) -> pa.DataType:
    if first == second:
        return first
    schemas = [pa.schema([("", kind)]) for kind in (first, second)]
    kind = pa.unify_schemas(schemas, promote_options="permissive").field(0).type
    _check_fields({field.name for field in kind} if pa.types.is_struct(kind) else ())
    return kind


def _cast(array: pa.Array, kind: pa.DataType) -> pa.Array:
    """The same values with another type.

    Raises:
        ArrowInvalid: A whole number would be rounded.
    """
    if array.type == kind:
        return array
    cast = array.cast(kind)
    try:
        cast.validate()
    except pa.ArrowInvalid:  # Arrow loses nulls of lists that hold nothing else, where their type stays.
        return pa.array(array.to_pylist(), kind)
    return cast


def _keys(values: Iterable[Any]) -> Iterator[str]:
    """Yield the names of all objects in values, at any level."""
    for value in values:
        if isinstance(value, dict):
            yield from value
            yield from _keys(value.values())
        elif isinstance(value, list):
            yield from _keys(value)


def _check_fields(names: Collection[str]) -> None:
    # Arrow gives every object all fields: where names are ids, that is rows x rows.
    if len(names) > _MOST_FIELDS:
        raise pa.ArrowInvalid(f"{len(names)} fields")


def _check_levels(kind: pa.DataType, left: int = _MOST_LEVELS) -> None:
    if not left:
        raise pa.ArrowInvalid(f"more than {_MOST_LEVELS} levels")
    for number in range(kind.num_fields):
        _check_levels(kind.field(number).type, left - 1)


def texts_of(values: Iterable[Any]) -> pa.Array:
    """Return values as JSON text, nulls as they are; what JSON does not know as the text that Python gives it."""
    return pa.array([None if value is None else json.dumps(value, default=str) for value in values], pa.string())


def _shown(name: str) -> str:
    """The name as Arrow can have it: without half a surrogate pair."""
    return name.encode("utf-8", "backslashreplace").decode()


def _fields(structs: pa.StructArray) -> dict[str, pa.Array]:
    return dict(zip((field.name for field in structs.type), structs.flatten(), strict=True))


def _list_array(lengths: pa.Array, fields: Mapping[str, pa.Array]) -> pa.ListArray:
    """Lists of objects, of so many each; null where the length is."""
    structs = pa.StructArray.from_arrays(list(fields.values()), names=list(fields))
    ends = np.cumsum(lengths.fill_null(0).to_numpy(), dtype=np.int32)
    return pa.ListArray.from_arrays(np.concatenate([np.zeros(1, np.int32), ends]), structs, mask=lengths.is_null())
