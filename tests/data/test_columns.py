"""Columns that the schema does not know: whatever they hold, no row is refused for them and no value is lost."""

import datetime
import json
import logging
import math

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from hypothesis import example, given
from hypothesis import strategies as st

from dro_trl.data import row_files
from dro_trl.data.columns import RowStore
from dro_trl.data.load import load_rag_dataset, read_rag_dataset
from dro_trl.trainer.dataset import prepare_dataset
from dro_trl.trainer.dro_config import DROConfig
from tests.helpers.tiny_models import tiny_tokenizer


def row(number, **further):
    passage = {"id": f"p{number}", "title": "T", "text": f"answer {number}", "score": 1.0}
    return {"question": f"question {number}?", "answers": [f"answer {number}"], "candidates": [passage], **further}


def write(path, rows):
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    return path


def table_of_rows(rows):
    """The table of rows that come in batches of a thousand, and the columns that are JSON text."""
    store, rows = RowStore(), list(rows)
    for start in range(0, len(rows), 1_000):
        store.add_rows(rows[start : start + 1_000])
    return store.dataset().data.table, store.texts


def plain(value):
    """NaN, which is not equal to itself, as text."""
    return str(value) if isinstance(value, float) and math.isnan(value) else value


HELD = {
    "whole numbers": [2**63 - 1, -(2**63), None],
    "numbers": [1, 0.5, -(2**53)],
    "too large for a float": [float("inf"), 1, float("-inf")],
    "no number": [float("nan"), 1.0, None],
    "null, then objects": [None, {"a": 1}, {"a": 2}],
    "lists": [[], [1], None],
    "dates": ["2020-01-01", "", "2021-02-30"],
    "nothing": [None, None, None],
    "empty objects": [{}, {}, None],
}
TEXTS = {
    "text among numbers": [1969, "unknown", None],
    "beyond 64 bits": [2**64, 1, None],
    "beyond a float's digits": [2**53 + 1, 0.5, 3],
    "nested beyond": [[2**53 + 1], [0.5], []],
    "logical and number": [True, 1, 0],
    "list and object": [None, ["a"], {"a": 1}],
    "fields of two types": [{"a": 1}, {"a": [1]}, {"b": {"c": "\u2028"}}],
    "numbers that look alike": ["5", 5, 5.0],
}


@pytest.mark.parametrize("name", HELD)
def test_what_arrow_holds_stays_as_it_is(tmp_path, name, caplog):
    rows = [row(number, extra=value) for number, value in enumerate(HELD[name])]
    with caplog.at_level(logging.WARNING):
        loaded = load_rag_dataset(write(tmp_path / "a.jsonl", rows))
    assert list(map(plain, loaded["extra"])) == list(map(plain, HELD[name]))
    assert caplog.text == ""


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("apart", [False, True])
def test_what_has_no_common_type_is_json_text_and_said(tmp_path, name, apart, caplog):
    """In one batch of rows or in batches of their own."""
    filler = [row(number, extra=None) for number in range(10, 1_009)] if apart else []
    rows = [one for number, value in enumerate(TEXTS[name]) for one in [row(number, extra=value), *filler]]
    path = write(tmp_path / "a.jsonl", rows)
    with caplog.at_level(logging.WARNING):
        loaded = load_rag_dataset(path)
    assert len(loaded) == len(rows)
    found = loaded["extra"][:: len(filler) + 1]
    assert [None if text is None else json.loads(text) for text in found] == TEXTS[name]
    assert f"{path}: the values of 'extra' have no common type; each is JSON text now" in caplog.text
    assert len(caplog.records) == 1


@pytest.mark.parametrize("num_rows", [300, 1_200])
def test_objects_whose_names_are_ids(num_rows):
    """As a struct of Arrow each would have the fields of all."""
    extras = [{f"id {number}": number} for number in range(num_rows)]
    table, texts = table_of_rows(row(number, extra=value) for number, value in enumerate(extras))
    assert texts == ["extra"]
    assert list(map(json.loads, table["extra"].to_pylist())) == extras


def test_names_that_pile_up_over_batches():
    extras = [{f"id {number // 500}-{number % 20}": number} for number in range(10_000)]
    table, texts = table_of_rows(row(number, extra=value) for number, value in enumerate(extras))
    assert texts == ["extra"]
    assert without_nulls(list(map(json.loads, table["extra"].to_pylist()))) == extras


def test_only_the_faults_of_known_columns_skip_a_row(tmp_path):
    rows = [row(1, year=1969), row(2, year="unknown", answers=[]), row(3, year=[2**70])]
    report = read_rag_dataset(write(tmp_path / "a.jsonl", rows), on_bad_row="skip")
    assert [fault.row for fault in report.skipped] == [2]
    assert list(report.dataset["year"]) == ["1969", f"[{2**70}]"]
    assert report.json_texts == ["year"]


def test_further_fields_of_passages_are_columns_like_others(tmp_path):
    def passage(number, **further):
        return {"id": str(number), "title": "", "text": "t", "score": number, **further}

    rows = [
        row(1, candidates=[passage(1, rank=1, meta={"a": 1}), passage(2, rank=2)]),
        row(2, candidates=[passage(2**62 + 1, meta="none", found=True)]),
    ]
    report = read_rag_dataset(write(tmp_path / "a.jsonl", rows))
    assert report.json_texts == ["candidates[].meta"]
    first, second = report.dataset["candidates"]
    assert [one["rank"] for one in first] == [1, 2]
    assert [one["meta"] for one in [*first, *second]] == ['{"a": 1}', None, '"none"']
    assert second[0]["score"] == float(2**62)
    assert second[0]["found"] is True


def test_rows_without_candidates_are_null_and_not_empty(tmp_path):
    rows = [row(1, candidates=None), row(2), row(3, candidates=None)]
    loaded = load_rag_dataset(write(tmp_path / "a.jsonl", rows), require_candidates=False)
    assert [one and len(one) for one in loaded["candidates"]] == [None, 1, None]
    none = load_rag_dataset(write(tmp_path / "b.jsonl", [row(1, candidates=None)]), require_candidates=False)
    assert none.column_names == ["question", "answers"]


def test_values_and_names_that_are_no_unicode():
    table, texts = table_of_rows(iter([row(1, extra="\ud800", **{"\ud800": 1}), row(2, extra="é")]))
    assert texts == ["extra"]
    assert list(map(json.loads, table["extra"].to_pylist())) == ["\ud800", "é"]
    assert table["\\ud800"].to_pylist() == [1, None]


def test_columns_of_parquet_that_datasets_has_no_type_for(tmp_path, caplog):
    rows = [row(1), row(2)]
    day = datetime.date(2020, 1, 1)
    table = pa.Table.from_pylist(rows)
    table = table.append_column("map", pa.array([[("a", 1)], None], pa.map_(pa.string(), pa.int64())))
    table = table.append_column("large", pa.array([2**64 - 1, 0], pa.uint64()))
    table = table.append_column("day", pa.array([day, None]))
    pq.write_table(table, tmp_path / "a.parquet")
    with caplog.at_level(logging.WARNING):
        loaded = load_rag_dataset(tmp_path / "a.parquet")
    assert list(loaded["map"]) == ['[["a", 1]]', None]
    assert list(loaded["large"]) == [2**64 - 1, 0]
    assert list(loaded["day"]) == [day, None]
    assert "the values of 'map' have no common type" in caplog.text


def test_preparing_for_training_leaves_them_alone(tmp_path):
    """Passages are cut and candidates shuffled; a number beyond 63 bits stays what it is."""
    candidates = [{"id": str(n), "title": "", "text": f"answer {n} and more words", "score": 1.0} for n in range(6)]
    table = pa.Table.from_pylist([row(1, candidates=candidates), row(2, candidates=candidates)])
    table = table.append_column("large", pa.array([2**64 - 1, 0], pa.uint64()))
    pq.write_table(table, tmp_path / "a.parquet")
    args = DROConfig(str(tmp_path), num_selected=2, max_passage_tokens=3, shuffle_candidates=True, use_cpu=True)
    loaded = load_rag_dataset(tmp_path / "a.parquet")
    prepared = prepare_dataset(loaded, "train", None, tiny_tokenizer(), args, training=True)
    assert list(prepared["large"]) == [2**64 - 1, 0]
    orders = [[passage["id"] for passage in found] for found in prepared["candidates"]]
    assert [sorted(order) for order in orders] == [list("012345")] * 2
    assert orders != [list("012345")] * 2


def test_preparing_more_rows_than_are_in_memory_at_once(tmp_path, monkeypatch, caplog):
    """Some passages in every batch, some in one; the table goes to a file."""
    monkeypatch.setattr(row_files, "MOST_IN_MEMORY", 1_000)
    words = [f"{number % 7} one two three four five" if number % 2 else f"short {number}" for number in range(2_500)]
    rows = [row(number) for number in range(2_500)]
    for one, text in zip(rows, words, strict=True):
        one["candidates"] = [{"id": str(n), "title": "", "text": f"{text} {n}", "score": 1.0} for n in range(3)]
    args = DROConfig(str(tmp_path), num_selected=2, max_passage_tokens=2, shuffle_candidates=True, use_cpu=True)
    with caplog.at_level(logging.WARNING):
        prepared = prepare_dataset(Dataset.from_list(rows), "train", None, tiny_tokenizer(), args, training=True)
    assert prepared.cache_files
    assert prepared["question"][:] == [one["question"] for one in rows]
    assert "of 7500 passages cut to max_passage_tokens=2" in caplog.text
    whole = [sorted((p["id"], p["text"]) for p in one["candidates"]) for one in rows]
    found = [sorted((p["id"], p["text"]) for p in candidates) for candidates in prepared["candidates"]]
    assert all(
        name == other and text.startswith(cut)
        for one, two in zip(whole, found, strict=True)
        for (name, text), (other, cut) in zip(one, two, strict=True)
    )


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=4,
)


def without_nulls(value):
    """An object's fields that are null or absent are one to Arrow."""
    if isinstance(value, dict):
        return {name: without_nulls(inner) for name, inner in value.items() if inner is not None}
    return [without_nulls(inner) for inner in value] if isinstance(value, list) else value


@example([{"a\0b": False, "a": True}])
@example([[{"\0": 1}]])
@given(st.lists(values, min_size=1, max_size=5))
def test_no_value_is_lost_whatever_it_is(extras):
    table, texts = table_of_rows(row(number, extra=value) for number, value in enumerate(extras))
    found = table["extra"].to_pylist()
    if texts:
        found = [None if text is None else json.loads(text) for text in found]
    assert without_nulls(found) == without_nulls(extras)
