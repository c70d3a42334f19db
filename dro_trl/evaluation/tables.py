"""Predictions as a table, a row for each system and question, for Parquet and CSV."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from dro_trl.evaluation.scores import Prediction
from dro_trl.files.writing import atomic_path
from dro_trl.metrics import exact_match, token_f1

Format = Literal["parquet", "csv"]
TABLES = ("predictions.parquet", "predictions.csv")
"""The files, one for each format."""

_TEXTS = pa.list_(pa.string())
_SCHEMA = pa.schema(
    [
        ("system", pa.string()),
        ("id", pa.string()),
        ("question", pa.string()),
        ("answers", _TEXTS),
        ("gold_ids", _TEXTS),
        ("ranking", _TEXTS),
        ("answer", pa.string()),
        ("em", pa.float64()),
        ("f1", pa.float64()),
    ]
)


def write_predictions(
    folder: Path, ids: Sequence[str], predictions: Mapping[str, Sequence[Prediction]], format: Format
) -> Path:
    """Write predictions with the EM and the F1 of each; in CSV lists are JSON, as this package reads them.

    Args:
        folder: Where the file goes, called `predictions` and by its format.
        ids: Of the questions.
        predictions: One a question, by system.
        format: `"parquet"` or `"csv"`.

    Returns:
        The path written.
    """
    rows = [
        {
            "system": system,
            "id": id,
            **found,
            "em": exact_match(found["answer"], found["answers"]),
            "f1": token_f1(found["answer"], found["answers"]),
        }
        for system, predicted in predictions.items()
        for id, found in zip(ids, predicted, strict=True)
    ]
    path = folder / f"predictions.{format}"
    with atomic_path(path) as temporary:
        if format == "parquet":
            pq.write_table(pa.Table.from_pylist(rows, _SCHEMA), temporary)
        else:
            with temporary.open("w", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, _SCHEMA.names)
                writer.writeheader()
                writer.writerows({name: _cell(row[name]) for name in _SCHEMA.names} for row in rows)
    return path


def _cell(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list) else value
