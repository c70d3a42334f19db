"""Run files: written for other tools, and read from them."""

import gzip
import re
import tempfile
from itertools import pairwise
from pathlib import Path

import ir_measures
import numpy as np
import pytest
import pytrec_eval
from hypothesis import given
from hypothesis import strategies as st

from dro_trl.retrieval.stored_run import StoredRun
from dro_trl.retrieval.trec_run import candidates_of_run, read_run, write_run

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


@pytest.mark.parametrize(
    "scores",
    [
        [20.0, 19.999999, 19.999998, 19.9],  # Lucene's ties: one 32-bit float
        [20.0, 20.0, 20.0, 20.0],
        [16777218.0, 16777217.0, 16777216.0, 16777215.0],
        [0.0, -0.0, 0.0, -1e-50],
        [-3.0, -3.0, -3.0000001, -3.5],
        [1.0, 1.5, 2.0, 0.5],  # a ranking that its scores contradict
        [np.float32(17.3), np.float32(17.3), np.float64(17.3), 17],
    ],
)
def test_every_tool_reads_the_ranking_that_was_written(tmp_path, scores):
    """The gold passage is the second: RR is 1/2, though by id it is the first or the last of those that tie."""
    for ids in ("abcd", "dcba"):
        path = tmp_path / "run.txt"
        write_run(path, ["q"], [[passage(id, score) for id, score in zip(ids, scores, strict=True)]], tag="t")
        qrels = {"q": {ids[1]: 1}}
        with path.open() as file:
            run = pytrec_eval.parse_run(file)
        evaluator = pytrec_eval.RelevanceEvaluator(qrels, {"recip_rank", "recall_1"})
        assert evaluator.evaluate(run)["q"] == {"recip_rank": 0.5, "recall_1": 0.0}
        lines = list(ir_measures.read_trec_run(str(path)))
        assert ir_measures.calc_aggregate([ir_measures.RR], qrels, lines) == {ir_measures.RR: 0.5}
        singles = [np.float32(line.score) for line in lines]
        assert all(left > right for left, right in pairwise(singles))
        assert [id for id, _ in read_run(path)["q"]] == list(ids)
        assert [line.split()[3] for line in path.read_text().splitlines()] == ["1", "2", "3", "4"]


def test_only_scores_that_would_tie_are_changed_and_by_as_little_as_there_is(tmp_path):
    found = [[passage("a", 20.0000001), passage("b", 20.0), passage("c", 16.1), passage("d", 0.1)]]
    write_run(tmp_path / "run", ["q"], found, tag="t")
    (_, first), (_, second), *others = read_run(tmp_path / "run")["q"]
    assert (first, others) == (20.0000001, [("c", 16.1), ("d", 0.1)])
    assert second == 20 - 2**-19  # 24 binary digits, five of them before the point


@pytest.mark.parametrize("score", [float("nan"), float("inf"), -1e39])
def test_a_score_that_is_no_number_to_the_readers_is_named(tmp_path, score):
    with pytest.raises(ValueError, match=f"query q: the score {re.escape(str(score))} is no finite 32-bit float"):
        write_run(tmp_path / "run", ["q"], [[passage("a", score)]], tag="t")
    assert list(tmp_path.iterdir()) == []


@given(st.lists(st.floats(-1e30, 1e30), max_size=30))
def test_any_scores_keep_their_order(scores):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run"
        write_run(path, ["q"], [[passage(f"p{number}", score) for number, score in enumerate(scores)]], tag="t")
        read = read_run(path).get("q", [])
    assert [id for id, _ in read] == [f"p{number}" for number in range(len(scores))]
    singles = np.array([score for _, score in read], dtype=np.float32)
    assert (np.diff(singles) < 0).all()


@pytest.mark.parametrize("compress", [False, True])
def test_a_run_of_anserini_becomes_candidates(tmp_path, compress):
    path = tmp_path / ("run.txt.gz" if compress else "run.txt")
    path.write_bytes(gzip.compress(ANSERINI.encode()) if compress else ANSERINI.encode())
    stored = StoredRun(path)
    source = stored.passages_of(CORPUS, "corpus", [])
    for run in (stored, read_run(path)):
        found = candidates_of_run(run, ["q2", "q9", "q1"], source, k=5)
        assert found == [[passage("c", 0.5)], [], [passage("b", 12.3456), passage("a", 12.345599)]]
        assert candidates_of_run(run, ["q1"], source, k=1) == [[passage("b", 12.3456)]]


def test_scores_decide_the_order_and_ties_keep_the_files(tmp_path):
    (tmp_path / "run").write_text("q Q0 a 1 1 t\nq Q0 b 2 3 t\nq Q0 c 3 1.0 t\n")
    ranking = [("b", 3.0), ("a", 1.0), ("c", 1.0)]
    assert read_run(tmp_path / "run") == {"q": ranking}
    assert StoredRun(tmp_path / "run").get("q", []) == ranking
    assert StoredRun(tmp_path / "run").get("other", [("default", 1.0)]) == [("default", 1.0)]


def test_of_a_corpus_what_a_run_ranks_and_what_is_asked_for_is_kept(tmp_path):
    (tmp_path / "run").write_text("q Q0 a 1 1 t\nq Q0 z 1 1 t\n")
    source = StoredRun(tmp_path / "run").passages_of(CORPUS, "corpus", ["a", "c", "y"])
    assert source.passages(["c", "a", "c"]) == [passage(id, 0.0) for id in "cac"]
    with pytest.raises(ValueError, match=r"corpus holds no passage 'b' \(3 of 4 are missing\)"):
        source.passages(["b", "a", "y", "z"])


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (
            "q1 Q0 a 1 1.5\n",
            "run:1: not a line of a TREC run file (not enough values to unpack (expected 6, got 5)); expected",
        ),
        ("q1 Q0 a 1 high t\n", "'high' is no finite number"),
        ("q1 Q0 a 1 nan t\n", "'nan' is no finite number"),
        ("q1 Q0 a 1 2 t\nq1 Q0 a 2 1 t\n", "query q1 has passage a twice"),
    ],
)
def test_faults_of_a_file(tmp_path, content, complaint):
    (tmp_path / "run").write_text(content)
    for read in (read_run, StoredRun):
        with pytest.raises(ValueError, match=re.escape(complaint)):
            read(tmp_path / "run")


def test_faults_of_ids(tmp_path):
    with pytest.raises(ValueError, match="two questions have the id 'q'"):
        write_run(tmp_path / "run", ["q", "q"], [[], []], tag="t")
    with pytest.raises(ValueError, match="query id 'q 1' is empty or holds white space"):
        candidates_of_run({}, ["q 1"], None, k=1)
    with pytest.raises(ValueError, match="passage id 'a b' is empty or holds white space"):
        write_run(tmp_path / "run", ["q"], [[passage("a b", 1.0)]], tag="t")
    assert list(tmp_path.iterdir()) == []
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
