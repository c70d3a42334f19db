"""The example that asks which passage a chosen one leads to."""

import json

import pytest
import torch

from dro_trl import ConditionalScoresPolicy
from tests.helpers.tiny_models import tiny_questions


def test_each_reading_is_counted(run_example, example_data, tmp_path, capsys):
    """Of three questions, two have both gold passages; what is printed is found by the best pair, over again."""
    rows = tiny_questions(4, 5, 6)
    for row, gold in zip(rows, (["0-0", "0-2"], ["1-1"], ["2-5", "2-3"]), strict=True):
        row["gold_ids"] = gold
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    start, _ = example_data
    names = run_example("link_signal.py", "--dataset", str(path), dataset=False)
    lines = dict(line.rsplit(": ", 1) for line in capsys.readouterr().out.splitlines() if " of " in line)
    assert lines.keys() == names["READINGS"].keys()
    policy = ConditionalScoresPolicy(names["tokenizer"], 2, link_tokens=3, score_temperature=1e9)
    places = [(0, 2), (5, 3)]
    expected = 0
    for row, (first, second) in zip((rows[0], rows[2]), places, strict=True):
        with torch.no_grad():
            logps = [
                float(policy.logps(names["model"], policy.encode([row]), torch.tensor([[[first, i]]])).logps)
                if i != first
                else float("-inf")
                for i in range(len(row["candidates"]))
            ]
        expected += logps.index(max(logps)) == second
    assert lines["link, first 3 tokens"] == f"{expected} of 2"


def test_a_file_without_pairs_is_refused(run_example, capsys):
    with pytest.raises(SystemExit):
        run_example("link_signal.py")
    assert "has no question with two gold passages among its candidates" in capsys.readouterr().err
