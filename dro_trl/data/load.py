"""Datasets from files, folders and the hub, checked against the schema."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import (
    Dataset,
    DatasetDict,
    Features,
    IterableDataset,
    List,
    Value,
    load_dataset,
    load_from_disk,
)

from dro_trl.data.columns import texts_of
from dro_trl.data.row_checks import find_faults
from dro_trl.data.row_files import dataset_of
from dro_trl.data.schema import COLUMNS, RowFault, check_columns, describe_faults
from dro_trl.data.text_row_reader import TextRowReader
from dro_trl.files.text_rows import is_json_lines, parse_json, read_cells, read_json
from dro_trl.names import near

logger = logging.getLogger(__name__)

OnBadRow = Literal["raise", "skip"]
_SUFFIXES = (".jsonl", ".json", ".parquet", ".csv")
_ROWS_PER_BATCH = 1_000
_CSV_JSON_COLUMNS = ("answers", "candidates", "gold_ids")


@dataclass(frozen=True)
class LoadedDataset:
    """A dataset, and what was left out of it."""

    dataset: Dataset
    """The rows that fit the schema, in the order of the source."""
    num_rows: int
    """How many rows were read."""
    skipped: list[RowFault]
    """The rows left out, all of them, in the order of the source."""
    json_texts: list[str]
    """The further columns, and fields of passages, that hold what no one type does: each value is JSON text now."""

    def log(self, source: str) -> None:
        """Warn of what was skipped or rewritten in a file, a dataset or a table."""
        if self.skipped:
            description = describe_faults(self.skipped, source, self.num_rows)
            logger.warning("skipped %d of %d rows; %s", len(self.skipped), self.num_rows, description)
        if self.json_texts:
            logger.warning(
                "%s: the values of %s have no common type; each is JSON text now (json.loads gives it back)",
                source,
                ", ".join(f"'{name}'" for name in self.json_texts),
            )


def load_rag_dataset(
    path_or_hub_name: str | Path,
    *,
    split: str = "train",
    on_bad_row: OnBadRow = "raise",
    require_candidates: bool = True,
) -> Dataset:
    """Load a dataset and check every row.

    Args:
        path_or_hub_name: A file (`.jsonl`, `.json`, `.parquet`, or `.csv` with the list columns as JSON), a folder
            written by `save_to_disk`, or the name of a dataset on the hub.
        split: Which split of a dataset on the hub or of a folder with several; a file has only one.
        on_bad_row: `"raise"` refuses a source with a faulty row; `"skip"` leaves such rows out and logs how many there
            were and the first ten reasons (`read_rag_dataset` returns all of them).
        require_candidates: Whether the rows must have `candidates` already.

    Returns:
        The columns `question` (str), `answers` (list of str), `candidates` (list of `{id, title, text, score}`),
        `gold_ids` (list of str) where the source has it, and its other columns as they are. One of those whose values
        have no common type (numbers and text, whole numbers beyond 64 bits) is JSON text, and a warning names it; they
        refuse no row.

    Raises:
        FileNotFoundError: There is no such file or folder, nor such a dataset on the hub.
        ValueError: A required column is missing, no row is left, or a row is faulty: naming source, row, field, what
            was found and what is expected.
    """
    loaded = read_rag_dataset(
        path_or_hub_name, split=split, on_bad_row=on_bad_row, require_candidates=require_candidates
    )
    loaded.log(str(path_or_hub_name))
    return loaded.dataset


def read_rag_dataset(
    path_or_hub_name: str | Path,
    *,
    split: str = "train",
    on_bad_row: OnBadRow = "raise",
    require_candidates: bool = True,
) -> LoadedDataset:
    """Load a dataset as `load_rag_dataset` does, and return with it what was skipped or rewritten, not logged."""
    if on_bad_row not in ("raise", "skip"):
        raise ValueError(f"on_bad_row is {on_bad_row!r}; expected 'raise' or 'skip'")
    source = str(path_or_hub_name)
    path = Path(path_or_hub_name)
    if path.suffix in (".jsonl", ".json", ".csv"):
        _check_exists(path)
        reader = TextRowReader(require_candidates)
        if path.suffix == ".csv":
            reader.add(_csv_rows(path))
        elif is_json_lines(path):
            reader.add_json_lines(path)
        else:
            reader.add(read_json(path))
        return finish(reader, source, on_bad_row, require_candidates)
    whole, json_texts = _open_dataset(path, source, split)
    check_columns(whole.column_names, source, require_candidates=require_candidates)
    skipped = find_faults(whole, require_candidates=require_candidates)
    good = np.delete(np.arange(len(whole)), [fault.row - 1 for fault in skipped])
    dataset = whole.select(good) if skipped else whole
    return _loaded(dataset, len(whole), skipped, json_texts, source, on_bad_row)


def finish(reader: TextRowReader, source: str, on_bad_row: OnBadRow, require_candidates: bool) -> LoadedDataset:
    """Return what was read row by row; arguments and errors as those of `read_rag_dataset`."""
    if reader.columns:
        check_columns(reader.columns, source, require_candidates=require_candidates)
    store = reader.store
    return _loaded(store.dataset(), reader.num_rows, reader.faults, store.texts, source, on_bad_row)


def _loaded(
    dataset: Dataset, num_rows: int, skipped: list[RowFault], json_texts: list[str], source: str, on_bad_row: OnBadRow
) -> LoadedDataset:
    if skipped and (on_bad_row == "raise" or len(skipped) == num_rows):
        raise ValueError(describe_faults(skipped, source, num_rows))
    if not num_rows:
        raise ValueError(f"{source}: holds no rows")
    return LoadedDataset(_with_schema_types(dataset), num_rows, skipped, json_texts)


def stream_rag_dataset(hub_name: str, split: str = "train") -> IterableDataset:
    """Return a dataset on the hub as a stream, of which no more is fetched than is read; its rows are not checked yet.

    Args:
        hub_name: Its name.
        split: Which split.

    Raises:
        FileNotFoundError: There is no such dataset.
        ValueError: There is no such split, or it is a file here.
    """
    if Path(hub_name).suffix in _SUFFIXES or Path(hub_name).exists():
        raise ValueError(f"dataset_streaming=True streams from the hub, and {hub_name} is no name there; leave it out")
    return _load_from_hub(hub_name, split, streaming=True)


def _load_from_hub(name: str, split: str, **options: Any) -> Any:
    try:
        return load_dataset(name, split=split, **options)
    except OSError as error:
        said = " ".join(str(error).split())
        raise FileNotFoundError(
            f"{name}: no such file or folder, and no such dataset could be had from the hub: {said}"
        ) from error


def _check_exists(path: Path) -> None:
    if path.is_file():
        return
    raise FileNotFoundError(f"{path}: no such file{near(path, is_folder=False)}")


def _open_dataset(path: Path, source: str, split: str) -> tuple[Dataset, list[str]]:
    """Open what is stored as Arrow or Parquet; also names the columns that are JSON text now."""
    if path.suffix == ".parquet":
        _check_exists(path)
        try:
            return _open_parquet(path, source)
        except pa.ArrowException as error:
            raise ValueError(f"{source}: not a readable Parquet file: {' '.join(str(error).split())}") from error
    if path.is_file():
        raise ValueError(f"{source}: files of this kind are not read; expected one of {', '.join(_SUFFIXES)}")
    if path.is_dir():
        return _open_folder(path, split), []
    dataset = _load_from_hub(source, split)
    assert isinstance(dataset, Dataset)
    return dataset, []


def _open_parquet(path: Path, source: str) -> tuple[Dataset, list[str]]:
    """Read a Parquet file; columns of a type that `datasets` does not have (maps, UUIDs) become JSON text."""
    with pq.ParquetFile(path) as file:
        schema, rewritten = file.schema_arrow, []
        if len(set(schema.names)) < len(schema.names):
            raise ValueError(f"{source}: two columns have one name; the columns are {', '.join(schema.names)}")
        for number, column in enumerate(schema):
            try:
                Features.from_arrow_schema(pa.schema([column]))
            except ValueError as error:
                if column.name in COLUMNS:
                    raise ValueError(f"{source}: column '{column.name}': {error}") from error
                schema = schema.set(number, pa.field(column.name, pa.string()))
                rewritten.append(column.name)
        tables = (
            pa.table(
                [
                    texts_of(array.to_pylist()) if name in rewritten else _valid(array, name)
                    for name, array in zip(schema.names, batch.columns, strict=True)
                ],
                schema=schema,
            )
            for batch in file.iter_batches(_ROWS_PER_BATCH)
        )
        return dataset_of(tables, schema), rewritten


def _valid(array: pa.Array, name: str) -> pa.Array:
    """Return values whose texts are UTF-8, which a file may claim of any bytes."""
    try:
        array.validate(full=True)
    except pa.ArrowInvalid as error:
        raise pa.ArrowInvalid(f"column '{name}': {error}") from error
    return array


def _open_folder(path: Path, split: str) -> Dataset:
    try:
        dataset = load_from_disk(path)
    except Exception as error:  # A damaged one fails in as many ways as there are fields in its files.
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(
            f"{path}: not a folder written by `save_to_disk` ({said:.300}); name a file in it ({', '.join(_SUFFIXES)})"
        ) from error
    if not isinstance(dataset, DatasetDict):
        return dataset
    if split not in dataset:
        raise ValueError(f"{path}: has no split '{split}'; its splits are {', '.join(map(str, dataset))}")
    return dataset[split]


def _csv_rows(path: Path) -> Iterator[tuple[int, object]]:
    rows = (cells for _, cells in read_cells(path, ","))
    header = next(rows, [])
    if len(set(header)) < len(header):
        raise ValueError(f"{path}: a column occurs twice in the header {', '.join(header)}")
    for number, cells in enumerate(rows, start=1):
        yield number, _csv_row(cells, header)


def _csv_row(cells: list[str], header: list[str]) -> dict[str, Any] | ValueError:
    if len(cells) != len(header):
        return ValueError(
            f"found a row with more or fewer cells than the header: {len(cells)}; expected {len(header)}"
        )
    row: dict[str, Any] = dict(zip(header, cells, strict=True))
    for field in _CSV_JSON_COLUMNS:
        if field in row:
            try:
                row[field] = parse_json(row[field]) if row[field].strip() else None
            except ValueError as error:
                return ValueError(f"field '{field}': found {row[field][:60]!r}; expected a JSON list ({error})")
    return row


def _with_schema_types(dataset: Dataset) -> Dataset:
    """Give the schema's columns its types, whatever the source stored them as; the other columns stay as they are."""
    text = Value("string")
    for name in {"candidates", "gold_ids"} & set(dataset.column_names):
        if isinstance(dataset.features[name], Value):  # No list, and yet no row was refused: all are null.
            dataset = dataset.remove_columns(name).add_column(name, [None] * len(dataset))
    features = dict(dataset.features)
    features["question"] = text
    features["answers"] = List(text)
    if "gold_ids" in features:
        features["gold_ids"] = List(text)
    if "candidates" in features:
        passage = dict(getattr(features["candidates"], "feature", {}))  # of a column of nulls there is none
        features["candidates"] = List({**passage, "id": text, "title": text, "text": text, "score": Value("float64")})
    wanted = Features(features)
    return dataset if wanted == dataset.features else dataset.cast(wanted)
