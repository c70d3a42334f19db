"""Rows checked by whole columns: what Arrow has nothing against needs no look from Python."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from dro_trl.data.schema import COLUMNS, RowFault, check_columns, check_row, describe_faults, required_columns

_ROWS_PER_BATCH = 1_000
Mask = npt.NDArray[np.bool_]


def validate_dataset(dataset: Dataset, source: str, *, require_candidates: bool = True) -> None:
    """Check a dataset made in memory against the schema.

    Args:
        dataset: The dataset.
        source: What to call it in the error, such as `"train_dataset"`.
        require_candidates: Whether the column `candidates` is required.

    Raises:
        ValueError: There are no rows, a column is missing, or a row is faulty: naming `source`, row (counted from 1)
            and field, what was found and what is expected.
    """
    if not len(dataset):
        raise ValueError(f"{source}: holds no rows")
    check_columns(dataset.column_names, source, require_candidates=require_candidates)
    if faults := find_faults(dataset, require_candidates=require_candidates):
        raise ValueError(describe_faults(faults, source, len(dataset)))


def find_faults(dataset: Dataset, *, require_candidates: bool = True) -> list[RowFault]:
    """List what is wrong with the rows of a dataset, one fault for each faulty row.

    Args:
        dataset: The rows, the first of which is row 1.
        require_candidates: As in `check_row`.

    Returns:
        The faults in the order of the rows; empty where there are none.
    """
    known = dataset.select_columns([name for name in dataset.column_names if name in COLUMNS])
    tables, plain = known.with_format("arrow"), known.with_format(None)
    faults = []
    for start in range(0, len(dataset), _ROWS_PER_BATCH):
        stop = min(start + _ROWS_PER_BATCH, len(dataset))
        table = tables[start:stop]
        try:
            table.validate(full=True)  # A Parquet file may hold text that is not UTF-8.
            rows = start + np.flatnonzero(doubtful_rows(table, require_candidates=require_candidates))
        except pa.ArrowInvalid:
            rows = np.arange(start, stop)
        for row, content in zip(rows.tolist(), plain.select(rows), strict=True) if len(rows) else ():
            try:
                check_row(content, require_candidates=require_candidates)
            except ValueError as error:
                faults.append(RowFault(row + 1, str(error)))
    return faults


def doubtful_rows(table: pa.Table, *, require_candidates: bool) -> Mask:
    """Say of each row whether `check_row` has to look at it: all that it refuses are among those, and few others.

    Args:
        table: Rows, all text of which is UTF-8; other columns than the schema's are not looked at.
        require_candidates: As in `check_row`.

    Returns:
        One truth value a row.
    """
    batches = table.to_batches()
    masks = [_doubtful(batch, require_candidates) for batch in batches]
    return np.concatenate(masks) if masks else np.zeros(0, bool)


def _doubtful(batch: pa.RecordBatch, require_candidates: bool) -> Mask:
    checks = {"question": _no_text, "answers": _no_answers, "candidates": _no_candidates, "gold_ids": _no_gold_ids}
    doubtful = np.zeros(batch.num_rows, bool)
    for name, check in checks.items():
        if name in batch.schema.names:
            array = batch.column(name)
            found = check(array)
            doubtful |= found if name in required_columns(require_candidates) else found & _of(array.is_valid())
        elif name in required_columns(require_candidates):
            doubtful[:] = True
    return doubtful


def _no_answers(array: pa.Array) -> Mask:
    return _no_list(array, _no_text, may_be_empty=False)


def _no_gold_ids(array: pa.Array) -> Mask:
    doubtful = _no_list(array, _no_text)
    return doubtful if doubtful.all() else doubtful | _repeated(array, array.flatten())


def _no_candidates(array: pa.Array) -> Mask:
    doubtful = _no_list(array, _no_passage, may_be_empty=False)
    return doubtful if doubtful.all() else doubtful | _repeated(array, pc.struct_field(array.flatten(), "id"))


def _no_passage(array: pa.Array) -> Mask:
    names = [field.name for field in array.type] if pa.types.is_struct(array.type) else []
    if any(names.count(name) != 1 for name in ("id", "title", "text", "score")):
        return np.ones(len(array), bool)
    title, score = pc.struct_field(array, "title"), pc.struct_field(array, "score")
    doubtful = _no_text(pc.struct_field(array, "id")) | _no_text(pc.struct_field(array, "text"))
    doubtful |= _of(title.is_null()) if _is_text(title) else True
    if pa.types.is_float32(score.type) or pa.types.is_float64(score.type):
        return doubtful | ~_of(pc.is_finite(score))
    return doubtful | (_of(score.is_null()) if pa.types.is_integer(score.type) else True)


def _no_text(array: pa.Array) -> Mask:
    """Whether each is null, of another type, or white space (as `str.isspace` has it) alone."""
    if not _is_text(array):
        return np.ones(len(array), bool)
    return _of(pc.or_(pc.utf8_is_space(array), pc.equal(pc.binary_length(array), 0)), null=True)


def _no_list(array: pa.Array, check: Callable[[pa.Array], Mask], *, may_be_empty: bool = True) -> Mask:
    """Whether each is null or no list, holds nothing, or something that `check` doubts."""
    if not _is_list(array):
        return np.ones(len(array), bool)
    lengths = pc.list_value_length(array)
    doubtful = _of(pc.less(lengths, 0 if may_be_empty else 1), null=True)
    flat = array.flatten()
    if len(flat) and (found := check(flat)).any():
        doubtful[_owners(lengths)[found]] = True
    return doubtful


def _repeated(lists: pa.Array, ids: pa.Array) -> Mask:
    """Whether each list holds two equal ids, of which `ids` are those of all."""
    repeated = np.zeros(len(lists), bool)
    if len(ids) and _is_text(ids):
        codes = ids.dictionary_encode().indices.fill_null(0).to_numpy().astype(np.int64)
        keys = np.sort(_owners(pc.list_value_length(lists)) * (codes.max() + 1) + codes)
        repeated[keys[1:][keys[1:] == keys[:-1]] // (codes.max() + 1)] = True
    return repeated


def _owners(lengths: pa.Array) -> npt.NDArray[np.int64]:
    """The number of the list that each value is in."""
    return np.repeat(np.arange(len(lengths)), lengths.fill_null(0).to_numpy())


def _is_text(array: pa.Array) -> bool:
    return bool(pa.types.is_string(array.type) or pa.types.is_large_string(array.type))


def _is_list(array: pa.Array) -> bool:
    return bool(pa.types.is_list(array.type) or pa.types.is_large_list(array.type))


def _of(array: pa.Array, null: bool = False) -> Mask:
    found: Mask = pc.fill_null(array, null).to_numpy(zero_copy_only=False)
    return found
