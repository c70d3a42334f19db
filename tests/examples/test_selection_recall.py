"""The example that compares a trained selector with its start, other policies and the retriever's order."""

import json
import sys

import pytest

from examples import selection_recall
from tests.helpers.tiny_models import tiny_questions
from tests.helpers.training import make_trainer, save_start


def test_systems_and_gains(tmp_path, monkeypatch, capsys):
    start = save_start(tmp_path / "start")
    make_trainer(tmp_path / "pair", model=start, policy_kwargs={"retriever_prior": 1000.0}).save_model()
    rows = tiny_questions(4, 5, 6)
    for row, gold in zip(rows, (0, 1, None), strict=True):
        row["candidates"] = [{**passage, "score": -float(i)} for i, passage in enumerate(row["candidates"])]
        row["gold_ids"] = [] if gold is None else [row["candidates"][gold]["id"]]
    (tmp_path / "dev.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    output, reverse = tmp_path / "out.json", '{"retriever_prior": -1000.0}'
    conditional = '{"policy": "ConditionalScoresPolicy", "retriever_prior": -1000.0}'
    untrained = ["--untrained", reverse, "--untrained", conditional]
    arguments = ["--model", "pair", "--dataset", "dev.jsonl", "-k", "2", *untrained]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["selection_recall.py", *arguments, "--output", str(output)])
    selection_recall.main()
    found = json.loads(output.read_text())
    means = {(row["system"], row["metric"]): row["mean"] for row in found["rows"]}
    assert found["n"] == 2, "a question without gold passages is left out"
    for system in ("retriever's order", "start", "trained"):
        names = ("success@1", "recall@2", "mrr", "all_gold")
        assert [means[system, metric] for metric in names] == [0.5, 1.0, 0.75, 1.0]
    for name in (reverse, conditional):
        assert means[f"untrained, {name}", "success@1"] == 0.0
    for gain in ("gain", "start_gain"):
        gains = {(row["system"], row["metric"]): row[gain] for row in found["rows"]}
        assert gains[f"untrained, {reverse}", "success@1"] == 0.5
    assert "2 questions" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--start_only"])
    selection_recall.main()
    assert {row["system"] for row in json.loads(output.read_text())["rows"]} == {"retriever's order", "start"} | {
        f"untrained, {name}" for name in (reverse, conditional)
    }


def test_only_questions_whose_gold_passages_were_all_retrieved(tmp_path, monkeypatch, capsys):
    start = save_start(tmp_path / "start")
    make_trainer(tmp_path / "pair", model=start).save_model()
    rows = tiny_questions(4, 5, 6, 4)
    gold = [["0-0", "0-1"], ["1-0"], ["2-0", "elsewhere"], ["3-2", "3-0"]]
    data = tmp_path / "dev.jsonl"
    data.write_text("".join(json.dumps(row | {"gold_ids": ids}) + "\n" for row, ids in zip(rows, gold, strict=True)))
    output = tmp_path / "out.json"
    given = ["--model", str(tmp_path / "pair"), "--dataset", str(data), "-k", "2", "--start_only", "--num_gold"]
    monkeypatch.setattr(sys, "argv", ["selection_recall.py", *given, "2", "--output", str(output)])
    selection_recall.main()
    found = json.loads(output.read_text())
    assert (found["n"], found["every_candidate"]) == (2, 1.0)
    monkeypatch.setattr(sys, "argv", ["selection_recall.py", *given, "3", "--output", str(output)])
    with pytest.raises(SystemExit):
        selection_recall.main()
    assert "has no such question" in capsys.readouterr().err
