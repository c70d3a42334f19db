"""Rows as programs have them (lists of objects, data frames, tables, datasets, streams), checked, as one dataset."""

import logging
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset, DatasetDict, IterableDatasetDict

from dro_trl.data.load import OnBadRow, finish
from dro_trl.data.text_row_reader import TextRowReader

logger = logging.getLogger(__name__)

KINDS = "a Dataset, a list of dicts, a pandas or polars data frame, an Arrow table or a stream of rows"


def is_stream(rows: Any) -> bool:
    """Whether rows come one after the other, nobody knows how many, as of an `IterableDataset` or a generator."""
    return isinstance(rows, Iterable) and not hasattr(rows, "__len__")


def as_dataset(
    rows: Any,
    name: str,
    most_rows: int | None = None,
    on_bad_row: OnBadRow = "raise",
    require_candidates: bool = True,
) -> Dataset:
    """Return rows as a dataset; every row but those of a `Dataset` is checked.

    Args:
        rows: A `Dataset`, which is returned as it is; a list of dicts, or whatever else has a length and numbered
            rows; a data frame of pandas or polars; an Arrow table; or a stream, such as an `IterableDataset`.
        name: What to call them in errors, such as `"train_dataset"`.
        most_rows: How many are read of a stream.
        on_bad_row: As in `load_rag_dataset`.
        require_candidates: As in `load_rag_dataset`.

    Raises:
        ValueError: They are something else, a stream of which nobody says how much is read, or a row is faulty: naming
            `name`, row (counted from 1) and field, what was found and what is expected.
    """
    if isinstance(rows, Dataset):
        return rows
    if is_stream(rows):
        if most_rows is None:
            raise ValueError(
                f"{name} is a stream of rows ({type(rows).__name__}), whose length nobody knows; give as many as are "
                "wanted as a list, such as list(stream.take(500))"
            )
        plain = rows.with_format(None) if hasattr(rows, "with_format") else rows
        records: Iterator[Any] = islice(iter(plain), most_rows)
    else:
        records = _records(rows, name)
    reader = TextRowReader(require_candidates)
    reader.add((number, _plain(row)) for number, row in enumerate(records, start=1))
    loaded = finish(reader, name, on_bad_row, require_candidates)
    loaded.log(name)
    return loaded.dataset


def _records(rows: Any, name: str) -> Iterator[Any]:
    """Return the rows, as objects, of what has a length."""
    if isinstance(rows, (DatasetDict, IterableDatasetDict)):
        first = next(iter(rows), "train")
        raise ValueError(f"{name} holds the splits {', '.join(map(str, rows))}; give one of them, such as [{first!r}]")
    if isinstance(rows, (str, bytes)):
        raise ValueError(f"{name} is the name {rows!r:.80}; give its rows, dro_trl.load_rag_dataset({rows!r:.80})")
    if isinstance(rows, pa.Table):
        return (row for batch in rows.to_batches() for row in batch.to_pylist())
    if hasattr(rows, "iter_rows"):  # Of polars.
        return iter(rows.iter_rows(named=True))
    if hasattr(rows, "iloc") and hasattr(rows, "columns"):  # Of pandas.
        if not rows.columns.is_unique:
            twice = rows.columns[rows.columns.duplicated()][0]
            raise ValueError(f"{name}: two columns are called {twice!r}; rename one of them")
        cells = rows.rename(columns=str).astype(object)
        return iter(cells.where(cells.notna(), None).to_dict("records"))  # NaN says there that nothing is known.
    if isinstance(rows, Mapping):
        raise ValueError(
            f"{name} is a mapping of {', '.join(map(str, islice(rows, 5)))}; give Dataset.from_dict(…) of it"
        )
    if not (hasattr(rows, "__getitem__") and hasattr(rows, "__len__")):
        raise ValueError(f"{name} is a {type(rows).__name__}; give {KINDS}")
    return (rows[number] for number in range(len(rows)))


def _plain(value: Any) -> Any:
    """Return a row, or a part of it, as JSON would have it."""
    if isinstance(value, np.ndarray):
        return [_plain(part) for part in value.tolist()]
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
    return value.item() if isinstance(value, np.generic) else value
