"""The benchmark of distinct selections, on problems from a file."""

import json
import sys

import distinct_selections
import pytest


def test_problems_from_a_file(tmp_path, monkeypatch, capsys):
    """N = 3, K = 2: six selections, all of which M = 6 distinct ones are, so that nothing is left to chance."""
    path, output = tmp_path / "mine.jsonl", tmp_path / "found.json"
    problem = {"scores": [2.0, 0.0, -1.0], "rewards": [-1.0, -3.0, 0.0, -2.0, -0.5, -4.0]}
    path.write_text(json.dumps(problem) + "\n")
    options = ["--problems", str(path), "--num_selections", "6", "--draws", "10", "--output", str(output)]
    monkeypatch.setattr(sys, "argv", ["distinct_selections.py", *options])
    distinct_selections.main()
    drawn, distinct = json.loads(output.read_text())["rows"]
    assert "all of them" in capsys.readouterr().out
    assert drawn["distinct"] < distinct["distinct"] == 6
    for loss_type in distinct_selections.LOSS_TYPES:
        assert distinct[f"{loss_type}_error"] < 1e-3 < drawn[f"{loss_type}_error"]


def test_rewards_must_be_those_of_all_selections(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps({"scores": [2.0, 0.0, -1.0], "rewards": [-1.0] * 5}))
    with pytest.raises(ValueError, match=r"mine.jsonl: row 1: 5 rewards and 3 scores; give one of \[3, 6\]"):
        distinct_selections.read_problems(path)


def test_a_problem_counts_by_what_there_is_to_learn_from_it():
    learnt = {
        "distinct": 3.0,
        **{f"{loss}_{name}": 0.0 for loss in distinct_selections.LOSS_TYPES for name in ("error", "bias")},
    }
    exact = {f"{loss}_exact": 16.0 for loss in distinct_selections.LOSS_TYPES}
    flat = dict.fromkeys(learnt, 4.0) | dict.fromkeys(exact, 0.0)
    found = distinct_selections.relative([learnt | exact, flat])
    assert found["distinct"] == 3.5
    assert found["dro_error"] == found["grpo_bias"] == 0.5


def test_fewer_distinct_selections_than_draws(tmp_path, monkeypatch):
    output = tmp_path / "found.json"
    options = ["--num_problems", "1", "--draws", "5", "--num_distinct", "3", "--output", str(output)]
    monkeypatch.setattr(sys, "argv", ["distinct_selections.py", *options])
    distinct_selections.main()
    rows = json.loads(output.read_text())["rows"]
    assert [(row["proposal"], row["num_selections"]) for row in rows] == [
        ("policy", 8),
        ("without_replacement", 3),
    ] * len(distinct_selections.SPREADS)
    assert {row["distinct"] for row in rows[1::2]} == {3.0}
