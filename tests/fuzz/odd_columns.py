"""Columns of a Parquet file that are not what a dataset's should be."""

from datetime import date, timedelta
from decimal import Decimal

import pyarrow as pa

PASSAGE = {"id": "p", "title": "", "text": "Oslo lies there", "score": 1.0}
TEXTS = ("id", "title", "text")
NO_UTF8 = pa.array([b"Oslo", b"\xff\xfe"]).view(pa.string())


def passages(**fields):
    return pa.array([[{**PASSAGE, **fields}], [PASSAGE, {**PASSAGE, "id": "q"}]])


GOOD = {
    "question": pa.array(["where", "when"]),
    "answers": pa.array([["Oslo"], ["1984", "84"]]),
    "candidates": passages(),
    "gold_ids": pa.array([["p"], []]),
    "note": pa.array([1, 2]),
}
ODD_COLUMNS = [
    *(pa.array(["where", "when"], kind) for kind in (pa.large_string(), pa.string_view(), pa.large_binary())),
    *(pa.array(values) for values in ([1, 2], [None, "when"], ["", "when"], [1.5, None], [True, False], ["a", "\0"])),
    *(pa.nulls(2), GOOD["question"].dictionary_encode(), pa.array([b"\xff", b"b"]), NO_UTF8),
    *(pa.array([[["Oslo"]], [["1984"]]]), pa.array([["Oslo"], None]), pa.array([["Oslo"], []]), pa.array([[], []])),
    *(pa.array([["Oslo"], [None]]), pa.array([[1], [2]]), pa.array([["a", "a"], ["b"]]), pa.array([["Oslo"], [""]])),
    pa.array([["Oslo"], ["1984"]], pa.large_list(pa.string())),
    pa.array([["Oslo"], ["1984"]], pa.list_(pa.string(), 1)),
    pa.array([["Oslo"], ["1984"]], pa.list_view(pa.string())),
    pa.array([["Oslo"], ["1984"]], pa.list_(pa.dictionary(pa.int32(), pa.string()))),
    pa.ListArray.from_arrays([0, 1, 2], NO_UTF8),
    pa.array([[("a", 1)], []], pa.map_(pa.string(), pa.int64())),
    pa.array([[[("id", "p")]], []], pa.list_(pa.map_(pa.string(), pa.string()))),
    *(pa.array([one] * 2) for one in (date(2020, 1, 1), timedelta(1), Decimal("1.5"), PASSAGE)),
    *(passages(score=score) for score in (None, float("nan"), float("inf"), 3.5)),
    pa.array([[{**PASSAGE, "score": 1}], [{**PASSAGE, "score": 2}]]),
    pa.array([[{**PASSAGE, "score": Decimal(1)}]] * 2),
    *(passages(**{name: None}) for name in TEXTS),
    *(passages(id="q"), passages(text=" "), passages(more="x"), passages(more=None), pa.array([[PASSAGE, None]] * 2)),
    pa.array([[{"id": "p", "text": "x", "score": 1.0}]] * 2),
    pa.array([[{**PASSAGE, "id": 1}]] * 2),
    pa.array([[PASSAGE, PASSAGE], [PASSAGE]]),
    passages().cast(
        pa.large_list(pa.struct([(n, pa.large_string()) for n in PASSAGE if n != "score"] + [("score", "f4")]))
    ),
    *(pa.array([2**64 - 1, 1], pa.uint64()), pa.array([1.5, 2], pa.float16()), pa.array([{"a": [{"b": None}]}] * 2)),
]
