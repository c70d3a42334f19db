"""Run files: written for other tools, and read from them."""

import gzip
import re

import ir_measures
import pytest
import pytrec_eval

from dro_trl.retrieval.run_file import CorpusPassages, candidates_of_run, read_run, write_run

CORPUS = [{"id": id, "title": id.upper(), "text": f"text {id}"} for id in "abc"]
ANSERINI = """\
q1 Q0 b 1 12.345600 Anserini
q1 Q0 a 2 12.345599 Anserini
q2\tQ0\tc\t1\t0.500000\tAnserini
"""


def passage(id, score):
    return {"id": id, "title": id.upper(), "text": f"text {id}", "score": score}


def test_what_is_written_is_read_alike_here_and_elsewhere(tmp_path):
    path = tmp_path / "deep" / "run.txt"
    found = [[passage("b", 1 / 3), passage("a", 0.1)], [], [passage("c", -2.0)]]
    write_run(path, ["q1", "q2", "q3"], found, tag="t")
    assert path.read_text().splitlines()[1] == "q1 Q0 a 2 0.1 t"
    expected = {"q1": {"b": 1 / 3, "a": 0.1}, "q3": {"c": -2.0}}
    with path.open() as file:
        assert pytrec_eval.parse_run(file) == expected
    assert read_run(path) == {query: list(ranked.items()) for query, ranked in expected.items()}
    recall = ir_measures.calc_aggregate(
        [ir_measures.R @ 1], {"q1": {"b": 1, "a": 1}}, ir_measures.read_trec_run(str(path))
    )
    assert recall == {ir_measures.R @ 1: 0.5}


@pytest.mark.parametrize("compress", [False, True])
def test_a_run_of_anserini_becomes_candidates(tmp_path, compress):
    path = tmp_path / ("run.txt.gz" if compress else "run.txt")
    path.write_bytes(gzip.compress(ANSERINI.encode()) if compress else ANSERINI.encode())
    source = CorpusPassages(CORPUS, "corpus")
    found = candidates_of_run(read_run(path), ["q2", "q9", "q1"], source, k=5)
    assert found == [[passage("c", 0.5)], [], [passage("b", 12.3456), passage("a", 12.345599)]]
    assert candidates_of_run(read_run(path), ["q1"], source, k=1) == [[passage("b", 12.3456)]]


def test_scores_decide_the_order_and_ties_keep_the_files(tmp_path):
    (tmp_path / "run").write_text("q Q0 a 1 1 t\nq Q0 b 2 3 t\nq Q0 c 3 1.0 t\n")
    assert read_run(tmp_path / "run") == {"q": [("b", 3.0), ("a", 1.0), ("c", 1.0)]}


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (
            "q1 Q0 a 1 1.5\n",
            "run:1: not a line of a TREC run file (not enough values to unpack (expected 6, got 5)); expected",
        ),
        ("q1 Q0 a 1 high t\n", "could not convert string to float: 'high'"),
        ("q1 Q0 a 1 nan t\n", "query q1, passage a: the score is nan"),
        ("q1 Q0 a 1 2 t\nq1 Q0 a 2 1 t\n", "query q1 has passage a twice"),
    ],
)
def test_faults_of_a_file(tmp_path, content, complaint):
    (tmp_path / "run").write_text(content)
    with pytest.raises(ValueError, match=re.escape(complaint)):
        read_run(tmp_path / "run")


def test_faults_of_ids(tmp_path):
    with pytest.raises(ValueError, match="two questions have the id 'q'"):
        write_run(tmp_path / "run", ["q", "q"], [[], []], tag="t")
    with pytest.raises(ValueError, match="query id 'q 1' is empty or holds white space"):
        candidates_of_run({}, ["q 1"], CorpusPassages(CORPUS, "corpus"), k=1)
    with pytest.raises(ValueError, match="passage id 'a b' is empty or holds white space"):
        write_run(tmp_path / "run", ["q"], [[passage("a b", 1.0)]], tag="t")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match=r"corpus holds no passage 'z' \(1 of 2 are missing\)"):
        candidates_of_run({"q": [("a", 1.0), ("z", 0.5)]}, ["q"], CorpusPassages(CORPUS, "corpus"), k=2)
    with pytest.raises(FileNotFoundError, match="no run file"):
        read_run(tmp_path / "run")


def test_a_run_is_the_same_however_it_is_written(tmp_path):
    lines = ["q1 Q0 a 1 2.0 t", "q1\tQ0\tb\t2\t1.5\tt", "q2 Q0 a 1 1.0 t"]
    wanted = {"q1": [("a", 2.0), ("b", 1.5)], "q2": [("a", 1.0)]}
    for end in ("\n", "\r\n", "\r", "\n\n"):
        for mark in ("", "\ufeff"):
            content = (mark + end.join([*lines, ""])).encode()
            for written in (content, gzip.compress(content)):
                (tmp_path / "run").write_bytes(written)
                assert read_run(tmp_path / "run") == wanted
