"""Retrieval as a dataset column: done once, before training, and cached."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
from datasets import Dataset, Features, List, Value, concatenate_datasets

from dro_trl.data.row_files import cache_root, dataset_of
from dro_trl.files.writing import atomic_path
from dro_trl.retrieval.base import Retriever, check_retriever
from dro_trl.types import Passage

_COLUMN = "candidates"
_QUESTIONS_PER_BATCH = 1_000
_TYPES = {"id": str, "title": str, "text": str, "score": float}
_FEATURES = Features(
    {
        _COLUMN: List(
            {"id": Value("string"), "title": Value("string"), "text": Value("string"), "score": Value("float64")}
        )
    }
)


def attach_candidates(
    dataset: Dataset, retriever: Retriever, k: int, *, cache_dir: str | Path | None = None
) -> Dataset:
    """Add the column `candidates`: for each row's question, the retriever's `k` best passages, best first.

    The column is kept on disk and found again when the questions, the retriever's `fingerprint` and `k` are the same.
    A retriever without a `fingerprint` is asked every time.

    Args:
        dataset: Rows with a column `question`.
        retriever: Anything that finds passages for questions.
        k: Passages wanted for each question, at least 1.
        cache_dir: Folder of the cache. `$DRO_TRL_CACHE/candidates` by default, or else `~/.cache/dro_trl/candidates`.

    Returns:
        The dataset, in the same order, with the column `candidates` (lists of `{id, title, text, score}`).

    Raises:
        ValueError: There is no column `question`, there is a column `candidates` already, the retriever found nothing
            for some rows or returned something other than passages, or a file of the cache is damaged.
    """
    check_retriever(retriever)
    if "question" not in dataset.column_names:
        raise ValueError(f"the dataset has no column 'question'; it has {', '.join(dataset.column_names) or 'none'}")
    if _COLUMN in dataset.column_names:
        raise ValueError(
            f"the dataset has a column '{_COLUMN}' already; use it as it is, or drop it first with "
            f"dataset.remove_columns('{_COLUMN}')"
        )
    fingerprint = retriever.fingerprint
    if fingerprint is None:
        return _joined(dataset, _retrieve(dataset, retriever, k))
    file = _cache_folder(cache_dir) / f"{_key(dataset, fingerprint, k)}.arrow"
    if not file.exists():
        _write(_retrieve(dataset, retriever, k), file)
    return _joined(dataset, _read(file, len(dataset)))


def _batches(dataset: Dataset) -> Iterator[list[str]]:
    for batch in dataset.select_columns("question").with_format(None).iter(_QUESTIONS_PER_BATCH):
        yield batch["question"]


def _key(dataset: Dataset, fingerprint: str, k: int) -> str:
    """The SHA-256 of the JSON text `[questions, fingerprint, k]`."""
    digest = hashlib.sha256(b"[[")
    separator = ""
    for questions in _batches(dataset):
        digest.update(f"{separator}{json.dumps(questions)[1:-1]}".encode())
        separator = ", "
    digest.update(f"], {json.dumps(fingerprint)}, {json.dumps(k)}]".encode())
    return digest.hexdigest()


def _retrieve(dataset: Dataset, retriever: Retriever, k: int) -> Dataset:
    empty: list[str] = []

    def tables() -> Iterator[pa.Table]:
        row = 0
        for questions in _batches(dataset):
            found = retriever.retrieve(questions, k)
            if len(found) != len(questions):
                raise ValueError(
                    f"the retriever returned {len(found)} lists of passages for {len(questions)} questions"
                )
            for question, passages in zip(questions, found, strict=True):
                if not passages:
                    empty.append(f"{row} ({question!r})")
                for passage in passages:
                    _check_passage(passage, row)
                row += 1
            yield Dataset.from_dict({_COLUMN: found}, features=_FEATURES).data.table

    column = dataset_of(tables(), _FEATURES.arrow_schema)
    if empty:
        more = f" and {len(empty) - 5} more" if len(empty) > 5 else ""
        raise ValueError(
            f"the retriever found nothing for {len(empty)} of {len(dataset)} rows: {', '.join(empty[:5])}{more}; "
            "reword or drop these questions, or use a larger corpus"
        )
    return column


def _check_passage(passage: Passage, row: int) -> None:
    # Arrow would turn a missing field into a null and leave out an unknown one.
    types = {field: type(value) for field, value in passage.items()}
    if types != _TYPES:
        found = ", ".join(f"{field}: {kind.__name__}" for field, kind in types.items())
        wanted = ", ".join(f"{field}: {kind.__name__}" for field, kind in _TYPES.items())
        raise ValueError(f"row {row}: the retriever returned a passage with {{{found}}}, need {{{wanted}}}")


def _cache_folder(cache_dir: str | Path | None) -> Path:
    if cache_dir is not None:
        return Path(cache_dir).expanduser()
    return cache_root() / _COLUMN


def _write(column: Dataset, file: Path) -> None:
    table = column.data.table
    with (
        atomic_path(file) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_stream(sink, table.schema) as stream,
    ):
        stream.write_table(table)


def _read(file: Path, num_rows: int) -> Dataset:
    try:
        column = Dataset.from_file(str(file))
    except Exception as error:  # Where it is cut off decides of what kind it is.
        said = " ".join(str(error).split())
        raise ValueError(f"the cached candidates {file} are damaged ({said}); delete the file") from error
    if len(column) != num_rows:
        said = f"{len(column)} of {num_rows} rows"
        raise ValueError(f"the cached candidates {file} are damaged ({said}); delete the file")
    return column


def _joined(dataset: Dataset, column: Dataset) -> Dataset:
    joined: Dataset = concatenate_datasets([dataset, column], axis=1)
    return joined
