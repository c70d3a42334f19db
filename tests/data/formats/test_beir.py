"""BEIR's folders of queries and judgements."""

import gzip
import json
import re

import pytest

from dro_trl.data.formats.beir import FORMAT
from tests.helpers.preparing import prepare, write_lines

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
        row = {"id": "q1", "question": "who leads", "gold_ids": ["d1", "d3"], "excluded_ids": ["q1"]}
        assert prepared.rows == [row]
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


def rewritten(folder, queries, qrels):
    write_lines(folder / "queries.jsonl", queries)
    (folder / "qrels" / "test.tsv").write_bytes(qrels)
    return {row["id"]: row["gold_ids"] for row in prepare(FORMAT, folder).rows}


NUMBERED = [{"_id": 1, "text": "a"}, {"_id": 2, "text": "b"}]


@pytest.mark.parametrize(
    "qrels",
    [
        b"query-id\tcorpus-id\tscore\n1\t10\t1\n1\t11\t0\n2\t20\t2\n",
        b"\xef\xbb\xbfquery-id\tcorpus-id\tscore\r\n1\t10\t1\r\n1\t11\t0\r\n2\t20\t2\r\n",  # written by Windows
        b"query-id\tcorpus-id\tscore\n1\t10\t2.0\n1\t11\t0.0\n2\t20\t0.5\n\n",  # graded, by pandas
        b"1\t10\t1\n1\t11\t-1\n2\t20\t1\n",  # no header
        b"1\t0\t10\t1\n1\t0\t11\t0\n2\t0\t20\t1\n",  # MS MARCO's
        b"1 0 10 1\n1 Q0 11 0\n2 0   20 1\n",  # trec_eval's
    ],
)
def test_judgements_as_they_are_distributed(folder, qrels):
    assert rewritten(folder, NUMBERED, qrels) == {"1": ["10"], "2": ["20"]}


@pytest.mark.parametrize("line", [b"1\t10\tnan", b"1\t10\tinf", b"1\t\t1", b"1\t10", b"1\t10\t", b"1\t0\t10\t1\t1"])
def test_faulty_judgements(folder, line):
    with pytest.raises(ValueError, match=r"test\.tsv:2: found \['1'.*; expected query-id, corpus-id and a number"):
        rewritten(folder, NUMBERED, b"2\t20\t1\n" + line + b"\n")


def test_compressed_queries_and_ids_that_are_none(folder):
    (folder / "queries.jsonl").unlink()
    lines = [*QUERIES, {"_id": None, "text": "x"}, {"_id": True, "text": "x"}, {"_id": 1.5, "text": "x"}]
    (folder / "queries.jsonl.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, lines)).encode()))
    prepared = prepare(FORMAT, folder)
    assert [row["id"] for row in prepared.rows] == ["q1"]
    assert [fault.row for fault in prepared.refused] == [3, 4, 5, 6]
    assert prepared.refused[1].reason == "field '_id': found nothing; expected text"


def test_a_document_of_the_querys_name_that_is_relevant_is_not_left_out(folder):
    (folder / "qrels" / "test.tsv").write_text("q1\tq1\t1\nq2\td1\t1\n")
    assert [row.get("excluded_ids") for row in prepare(FORMAT, folder).rows] == [None, ["q2"]]


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
