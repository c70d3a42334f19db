"""Natural Questions in DPR's two forms and NQ-open's."""

import csv
import gzip
import json

import pytest

from dro_trl.data.formats.natural_questions import FORMAT
from tests.helpers.preparing import prepare, write_lines

BIENCODER = {
    "dataset": "nq_train_psgs_w100",
    "question": "who led the town",
    "answers": ["Bea", "Bea B."],
    "positive_ctxs": [
        {"title": "Town", "text": "Bea led.", "score": 1000, "title_score": 1, "passage_id": "18"},
        {"title": "Town", "text": "Led by Bea.", "score": 12.5, "title_score": 0, "psg_id": 7},
    ],
    "negative_ctxs": [],
    "hard_negative_ctxs": [{"title": "Wall", "text": "x", "score": 9.1, "title_score": 0, "passage_id": "3"}],
}


@pytest.mark.parametrize("name", ["biencoder-nq-dev.json", "biencoder-nq-dev.json.gz"])
def test_biencoder_json_has_its_positive_passages_as_gold(tmp_path, name):
    content = json.dumps([BIENCODER, {**BIENCODER, "positive_ctxs": []}]).encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    prepared = prepare(FORMAT, tmp_path / name)
    assert prepared.rows == [
        {"id": "1", "question": "who led the town", "answers": ["Bea", "Bea B."], "gold_ids": ["18", "7"]},
        {"id": "2", "question": "who led the town", "answers": ["Bea", "Bea B."]},
    ]
    assert prepared.without_gold == 1


def test_qa_csv_as_dpr_writes_it(tmp_path):
    """Cells are quoted only where they must be, and the answers are a Python list."""
    answers = [["14 December 1972 UTC", "December 1972"], ["Lil' Kim", 'the "Bee"']]
    with (tmp_path / "nq-dev.qa.csv").open("w", newline="") as file:
        csv.writer(file, delimiter="\t").writerows([f"question {n}", repr(a)] for n, a in enumerate(answers))
    prepared = prepare(FORMAT, tmp_path / "nq-dev.qa.csv")
    assert [row["answers"] for row in prepared.rows] == answers
    assert prepared.rows[1] == {"id": "2", "question": "question 1", "answers": answers[1]}


def test_qa_csv_at_fault(tmp_path):
    (tmp_path / "nq.qa.csv").write_text("q1\t['a']\nq2\nq3\t['a'\nq4\tlen('a')\nq5\t[]\n")
    prepared = prepare(FORMAT, tmp_path / "nq.qa.csv")
    assert [fault.row for fault in prepared.refused] == [2, 3, 4, 5]
    assert "found ['q2']; expected a question, a tab, and a list such as" in prepared.refused[0].reason
    assert "expected at least one answer" in prepared.refused[3].reason


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"positive_ctxs": None}, "field 'positive_ctxs': found nothing; expected a list of objects with passage_id"),
        ({"positive_ctxs": [{"title": "x"}]}, "field 'positive_ctxs[0].passage_id': found nothing; expected text"),
        ({"positive_ctxs": ["x"]}, "field 'positive_ctxs[0]': found 'x'; expected an object with passage_id"),
        ({"answers": []}, "field 'answers': found an empty list"),
    ],
)
def test_faults(tmp_path, changes, message):
    prepared = prepare(FORMAT, write_lines(tmp_path / "raw.jsonl", [{**BIENCODER, **changes}]))
    assert message in prepared.refused[0].reason


@pytest.mark.realdata
def test_nq_open(shared_data):
    prepared = prepare(FORMAT, shared_data / "nq_open_dev.jsonl")
    assert (prepared.num_rows, len(prepared.rows), prepared.without_gold) == (3610, 3610, 3610)
    first = {"id": "1", "question": "when was the last time anyone was on the moon"}
    assert prepared.rows[0] == {**first, "answers": ["14 December 1972 UTC", "December 1972"]}
