"""What is printed of a tiny pair."""

import json
import sys

import asking
import pytest

from tests.helpers.tiny_models import tiny_questions
from tests.helpers.training import make_trainer, save_start


def test_every_figure(tmp_path, monkeypatch, capsys):
    make_trainer(tmp_path / "pair", model=save_start(tmp_path / "start")).save_model()
    data = tmp_path / "dev.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in tiny_questions(*[4] * 9)))
    given = ["--model", str(tmp_path / "pair"), "--dataset", str(data), "--max_new_tokens", "2", "--batch_sizes"]
    monkeypatch.setattr(sys, "argv", ["asking.py", *given, "4"])
    asking.main()
    begins = [line.partition(":")[0] for line in capsys.readouterr().out.splitlines() if ": " in line]
    assert begins == ["loading", "a question alone", "in a batch of 4", "peak"]
    monkeypatch.setattr(sys, "argv", ["asking.py", *given, "16"])
    with pytest.raises(SystemExit):
        asking.main()
    assert "has 9 questions; 17 are needed" in capsys.readouterr().err
