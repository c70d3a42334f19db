"""Loading: the same rows from every kind of file, and every fault told with file, row and field."""

import csv
import json
import logging
import re

import pytest
from datasets import Dataset, DatasetDict

from dro_trl.data.load import load_rag_dataset, read_rag_dataset


def row(number, **changes):
    passage = {"id": f"p{number}", "title": "T", "text": f"text {number}", "score": number}
    good = {
        "question": f"question {number}?",
        "answers": ["yes"],
        "candidates": [passage],
        "gold_ids": [],
        "hops": number,
    }
    return {**good, **changes}


ROWS = [row(1), row(2), row(3)]


def write(path, rows):
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=1))
    elif path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            for one in rows:
                writer.writerow(
                    {key: value if isinstance(value, str) else json.dumps(value) for key, value in one.items()}
                )
    elif path.suffix == ".parquet":
        Dataset.from_list(rows).to_parquet(path)
    else:
        Dataset.from_list(rows).save_to_disk(path)
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.parquet", "folder"])
def test_every_kind_of_source_gives_the_same_rows(tmp_path, name):
    loaded = load_rag_dataset(write(tmp_path / name, ROWS))
    features = loaded.features
    assert loaded.remove_columns("hops").to_list() == [{k: v for k, v in one.items() if k != "hops"} for one in ROWS]
    assert [int(value) for value in loaded["hops"]] == [1, 2, 3]
    assert features["candidates"].feature["score"].dtype == "float64"
    assert features["answers"].feature.dtype == features["gold_ids"].feature.dtype == "string"


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.parquet", "folder"])
def test_a_faulty_row_is_named_or_skipped_and_listed(tmp_path, name, caplog):
    rows = [row(1), row(2, answers=[]), row(3, question=""), row(4)]
    path = write(tmp_path / name, rows)
    with pytest.raises(ValueError, match="2 of 4 rows are faulty") as caught:
        load_rag_dataset(path)
    assert str(path) in str(caught.value)
    assert "row 2: field 'answers': found an empty list" in str(caught.value)
    assert "row 3: field 'question': found empty text" in str(caught.value)
    with caplog.at_level(logging.WARNING):
        loaded = load_rag_dataset(path, on_bad_row="skip")
    assert list(loaded["question"]) == ["question 1?", "question 4?"]
    assert "skipped 2 of 4 rows" in caplog.text
    assert "row 3: field 'question'" in caplog.text
    report = read_rag_dataset(path, on_bad_row="skip")
    assert report.num_rows == 4
    assert [fault.row for fault in report.skipped] == [2, 3]


def test_all_skipped_rows_are_reported_beyond_the_ten_that_are_logged(tmp_path):
    rows = [row(number, answers=[]) for number in range(30)] + [row(31)]
    report = read_rag_dataset(write(tmp_path / "a.jsonl", rows), on_bad_row="skip")
    assert len(report.skipped) == 30
    assert len(report.dataset) == 1


@pytest.mark.parametrize("on_bad_row", ["raise", "skip"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.parquet", "folder"])
def test_a_column_that_no_row_has_is_an_error_with_a_hint(tmp_path, name, on_bad_row):
    rows = [{("answer" if key == "answers" else key): value for key, value in one.items()} for one in ROWS]
    path = write(tmp_path / name, rows)
    message = f"{path}: column 'answers' is missing; did you mean 'answer'?"
    with pytest.raises(ValueError, match=re.escape(message)):
        load_rag_dataset(path, on_bad_row=on_bad_row)


def test_a_column_that_one_row_lacks_is_that_rows_fault(tmp_path):
    lacking = {key: value for key, value in row(2).items() if key != "answers"}
    path = write(tmp_path / "a.jsonl", [row(1), lacking])
    with pytest.raises(ValueError, match="row 2: field 'answers' is missing"):
        load_rag_dataset(path)


def test_malformed_json_is_named_by_line(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join([json.dumps(row(1)).encode(), b"", b'{"question": ', b"\xff\xfe", b"[1]"]))
    report = read_rag_dataset(path, on_bad_row="skip")
    assert [fault.row for fault in report.skipped] == [3, 4, 5]
    assert "malformed JSON" in report.skipped[0].reason
    assert "expected a JSON object" in report.skipped[2].reason
    broken = tmp_path / "b.json"
    broken.write_text('[{"question": "x"},')
    with pytest.raises(ValueError, match="b.json: malformed JSON"):
        load_rag_dataset(broken)


def test_types_may_settle_late(tmp_path):
    """The batches that make the table differ: the first holds no gold passages, no hops and whole scores."""
    early = [row(number, hops=None) for number in range(1500)]
    path = write(tmp_path / "a.jsonl", [*early, row(1, gold_ids=["p1"], hops=0.5, late="x")])
    loaded = load_rag_dataset(path)
    assert loaded[1500]["gold_ids"] == ["p1"]
    assert loaded[1500]["hops"] == 0.5
    assert loaded[0]["gold_ids"] == []
    assert loaded[0]["late"] is None
    assert loaded[1500]["late"] == "x"


def test_further_fields_of_a_passage_are_kept(tmp_path):
    passage = {"id": "1", "title": "", "text": "t", "score": 1, "rank": 4}
    loaded = load_rag_dataset(write(tmp_path / "a.jsonl", [row(1), row(2, candidates=[passage])]))
    assert loaded[1]["candidates"][0]["rank"] == 4
    assert loaded[0]["candidates"][0]["rank"] is None


def test_candidates_are_optional_before_retrieval(tmp_path):
    plain = [{"question": "a?", "answers": ["b"]}]
    path = write(tmp_path / "a.jsonl", plain)
    assert load_rag_dataset(path, require_candidates=False).to_list() == plain
    with pytest.raises(ValueError, match="column 'candidates' is missing.*dro-trl retrieve"):
        load_rag_dataset(path)


def test_a_cell_that_is_no_json_is_named(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("question,answers\na?,Paris\n")
    with pytest.raises(ValueError, match=r"a.csv, row 1: field 'answers': found 'Paris'; expected a JSON list"):
        load_rag_dataset(path, require_candidates=False)
    path.write_text('question,answers\na?,"[""b""]",c\n')
    with pytest.raises(ValueError, match=r"a.csv, row 1: found a row with more or fewer cells.*expected 2"):
        load_rag_dataset(path, require_candidates=False)


def test_a_long_cell_is_read(tmp_path):
    candidates = [{"id": "1", "title": "", "text": "x" * 300_000, "score": 1.0}]
    assert load_rag_dataset(write(tmp_path / "a.csv", [row(1, candidates=candidates)]))[0]["candidates"] == candidates


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_no_rows_is_an_error(tmp_path, name):
    with pytest.raises(ValueError, match="holds no rows"):
        load_rag_dataset(write(tmp_path / name, []))


def test_no_row_left_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="row 1: field 'question': found empty text"):
        load_rag_dataset(write(tmp_path / "a.jsonl", [row(1, question="")]), on_bad_row="skip")


def test_a_missing_file_points_to_the_nearest(tmp_path):
    write(tmp_path / "questions.jsonl", ROWS)
    with pytest.raises(FileNotFoundError, match=r"did you mean .*questions.jsonl"):
        load_rag_dataset(tmp_path / "question.jsonl")


def test_other_kinds_of_source_are_refused_by_name(tmp_path):
    (tmp_path / "a.tsv").write_text("question\n")
    with pytest.raises(ValueError, match=r"a.tsv: files of this kind are not read; expected one of .jsonl"):
        load_rag_dataset(tmp_path / "a.tsv")
    with pytest.raises(ValueError, match="not a folder written by `save_to_disk`"):
        load_rag_dataset(tmp_path)
    (tmp_path / "a.parquet").write_text("no")
    with pytest.raises(ValueError, match="a.parquet: not a readable Parquet file"):
        load_rag_dataset(tmp_path / "a.parquet")
    with pytest.raises(FileNotFoundError, match="nobody/nothing: no such file or folder, and no such dataset"):
        load_rag_dataset("nobody/nothing")
    with pytest.raises(ValueError, match="on_bad_row is 'ignore'; expected 'raise' or 'skip'"):
        load_rag_dataset(tmp_path / "a.tsv", on_bad_row="ignore")


def test_a_folder_with_splits(tmp_path):
    DatasetDict(dev=Dataset.from_list(ROWS)).save_to_disk(tmp_path / "splits")
    assert len(load_rag_dataset(tmp_path / "splits", split="dev")) == 3
    with pytest.raises(ValueError, match="has no split 'train'; its splits are dev"):
        load_rag_dataset(tmp_path / "splits")
