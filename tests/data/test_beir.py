"""BEIR's folders of queries and judgements."""

import re

import pytest

from dro_trl.data.beir import FORMAT
from tests.data.preparing import prepare, write_lines

QUERIES = [
    {"_id": "q1", "text": "who leads", "metadata": {}},
    {"_id": "q2", "text": "who follows"},
    {"_id": "q3", "text": "nobody"},
]
QRELS = "query-id\tcorpus-id\tscore\nq1\td1\t1\nq1\td2\t0\nq1\td3\t2\nq3\td1\t0\n"


@pytest.fixture
def folder(tmp_path):
    write_lines(tmp_path / "queries.jsonl", QUERIES)
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "test.tsv").write_text(QRELS)
    return tmp_path


def test_judged_queries_become_rows_without_answers(folder):
    """q2 is of another split; of q3 no document is relevant."""
    for path in (folder, folder / "qrels" / "test.tsv"):
        prepared = prepare(FORMAT, path)
        assert prepared.rows == [{"id": "q1", "question": "who leads", "gold_ids": ["d1", "d3"]}]
        assert (prepared.num_rows, prepared.without_answers) == (2, 1)
        [fault] = prepared.refused
        assert (fault.row, fault.reason) == (3, "found no document with a score above 0; expected at least one")


def test_gold_ids_are_looked_up_in_the_corpus(folder):
    corpus = write_lines(folder / "corpus.jsonl", [{"_id": "d1", "title": "", "text": "x"}])
    assert "found the ids ['d3']" in prepare(FORMAT, folder, corpus).refused[0].reason


def test_several_splits_must_be_chosen_from(folder):
    (folder / "qrels" / "dev.tsv").write_text("query-id\tcorpus-id\tscore\nq2\td1\t1\n")
    with pytest.raises(ValueError, match=re.escape(f"give the one of your split: {folder}/qrels/dev.tsv, ")):
        prepare(FORMAT, folder)
    assert [row["id"] for row in prepare(FORMAT, folder / "qrels" / "dev.tsv").rows] == ["q2"]


def test_faults(folder):
    with (folder / "qrels" / "test.tsv").open("a") as file:
        file.write("q9\td1\t1\n")
    with (folder / "queries.jsonl").open("a") as file:
        file.write('{"text": "x"}\n{\n')
    reasons = [(fault.row, fault.reason) for fault in prepare(FORMAT, folder).refused]
    assert reasons[0] == (0, "query 'q9' is judged in test.tsv and is not in queries.jsonl")
    assert reasons[2] == (4, "found {'text': 'x'}; expected an object with _id and text")
    assert "malformed JSON" in reasons[3][1]

    (folder / "qrels" / "test.tsv").write_text("q1\td1\tyes\n")
    with pytest.raises(ValueError, match=re.escape("test.tsv:1: found ['q1', 'd1', 'yes']; expected query-id")):
        prepare(FORMAT, folder)
    (folder / "qrels" / "test.tsv").unlink()
    with pytest.raises(FileNotFoundError, match=r"no file qrels/\*\.tsv there"):
        prepare(FORMAT, folder)
