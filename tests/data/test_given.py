"""Rows as programs have them: each form trains on the same questions, and what is wrong is named by its row."""

import json
import math

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from datasets import Dataset, DatasetDict, IterableDataset, load_dataset

from dro_trl.data.given import as_dataset
from tests.helpers.tiny_models import tiny_questions

ROWS = [dict(row) for row in tiny_questions(4, 5, 6)]


def stream(rows=ROWS):
    return IterableDataset.from_generator(lambda: iter(rows))


def arrays(rows):
    """A data frame as one that is read from Parquet: lists are arrays."""
    frame = pd.DataFrame(rows)
    return frame.assign(
        **{name: [np.array(v, dtype=object) for v in frame[name]] for name in ("answers", "candidates")}
    )


class Numbered:
    """As torch's map-style datasets."""

    def __len__(self):
        return len(ROWS)

    def __getitem__(self, number):
        return ROWS[number]


@pytest.mark.parametrize(
    "rows",
    [
        ROWS,
        tuple(ROWS),
        [{**row, "answers": tuple(row["answers"]), "gold_ids": np.array(row["gold_ids"])} for row in ROWS],
        pd.DataFrame(ROWS),
        arrays(ROWS),
        pd.DataFrame(ROWS, index=[7, 7, 7]),
        pa.Table.from_pylist(ROWS),
        Dataset.from_list(ROWS),
        Numbered(),
        stream(),
        stream().with_format("numpy"),
        (row for row in ROWS),
        map(dict, ROWS),
    ],
    ids=lambda rows: type(rows).__name__,
)
def test_every_form_is_the_same_rows(rows):
    assert as_dataset(rows, "rows", most_rows=9).to_list() == ROWS


def test_polars():
    polars = pytest.importorskip("polars", reason="polars is not installed")
    assert as_dataset(polars.DataFrame(ROWS), "rows").to_list() == ROWS


def test_a_dataset_is_not_copied():
    given = Dataset.from_list(ROWS)
    assert as_dataset(given, "rows") is given


def test_a_streamed_file_is_read_as_far_as_it_is_needed(tmp_path):
    """What is behind it may be faulty, or never end."""
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    streamed = load_dataset("json", data_files=str(path), split="train", streaming=True)
    assert as_dataset(streamed, "rows", most_rows=2).to_list() == ROWS[:2]

    def endless():
        while True:
            yield from ROWS

    assert as_dataset(endless(), "rows", most_rows=7).to_list() == [*ROWS, *ROWS, ROWS[0]]


def test_what_a_data_frame_lacks_is_null():
    frame = pd.DataFrame([{**ROWS[0], "source": "a", "hops": 2}, {**ROWS[1], "gold_ids": None}])
    [first, second] = as_dataset(frame, "rows").to_list()
    assert (first["source"], first["hops"]) == ("a", 2)
    assert (second["source"], second["hops"], second["gold_ids"]) == (None, None, None)


@pytest.mark.parametrize("form", [list, pd.DataFrame], ids=["list", "frame"])
def test_nan_within_a_row_is_told_as_such(form):
    rows = [{**ROWS[0], "candidates": [{**passage, "score": float("nan")} for passage in ROWS[0]["candidates"]]}]
    with pytest.raises(ValueError, match=r"^rows, row 1: field 'candidates\[0\].score': found NaN; expected a finite"):
        as_dataset(form(rows), "rows")


def test_nan_in_a_list_stays_what_it_is():
    [row] = as_dataset([{**ROWS[0], "weight": float("nan")}], "rows").to_list()
    assert math.isnan(row["weight"])


def faulty(field, value):
    return [ROWS[0], {**ROWS[1], field: value}, ROWS[2]]


@pytest.mark.parametrize("form", [list, pd.DataFrame, stream], ids=["list", "frame", "stream"])
@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("question", " ", "field 'question': found empty text"),
        ("question", 7, "field 'question': found 7; expected text"),
        ("answers", "Paris", "field 'answers': found \"Paris\"; expected a list"),
        ("answers", None, "field 'answers' is null"),
        ("candidates", [], "field 'candidates': found an empty list"),
    ],
)
def test_a_faulty_row_is_named_by_its_number(form, field, value, said):
    with pytest.raises(ValueError, match="^rows, row 2: ") as told:
        as_dataset(form(faulty(field, value)), "rows", most_rows=9)
    assert said in str(told.value)


def test_faulty_rows_can_be_left_out(caplog):
    rows = as_dataset(faulty("question", ""), "rows", on_bad_row="skip")
    assert rows.to_list() == [ROWS[0], ROWS[2]]
    assert "skipped 1 of 3 rows; rows, row 2: field 'question'" in caplog.text


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (stream(), "rows is a stream of rows .IterableDataset., whose length nobody knows; .*list.stream.take.500"),
        ([], "rows: holds no rows"),
        (iter(()), "rows is a stream"),
        (["Who?"], 'rows, row 1: found "Who\\?"; expected a JSON object'),
        ([{"query": "Who?", "answers": ["I"]}], "rows: column 'question' is missing"),
        (
            DatasetDict(train=Dataset.from_list(ROWS)),
            r"rows holds the splits train; give one of them, such as \['train'\]",
        ),
        ("rows.jsonl", "rows is the name 'rows.jsonl'; give its rows, dro_trl.load_rag_dataset"),
        ({"question": ["Who?"], "answers": [["I"]]}, "rows is a mapping of question, answers; give Dataset.from_dict"),
        (7, "rows is a int; give a Dataset, a list of dicts"),
        ({1, 2}, "rows is a set; give a Dataset"),
        (pd.DataFrame([["Who?", "I"]], columns=["question", "question"]), "two columns are called 'question'"),
    ],
)
def test_what_are_no_rows_is_one_line(rows, said):
    with pytest.raises(ValueError, match=said) as told:
        as_dataset(rows, "rows")
    assert "\n" not in str(told.value)


def test_a_stream_without_rows_is_told():
    with pytest.raises(ValueError, match="rows: holds no rows"):
        as_dataset(iter(()), "rows", most_rows=3)
