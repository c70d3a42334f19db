"""Running an example as it stands, on a tiny model and a few questions."""

import json
import runpy
import sys
from pathlib import Path

import pytest

from tests.tiny_models import tiny_questions
from tests.training import save_start

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture
def run_example(tmp_path, monkeypatch):
    """A function that runs an example in an empty folder with `--model`, `--dataset` and what else it is given."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in tiny_questions(4, 5, 6, 4)))

    def run(name: str, *arguments: str) -> dict[str, object]:
        """Return the example's names after it has run."""
        path = EXAMPLES / name
        assert len(path.read_text().splitlines()) < 60
        given = ["--model", save_start(tmp_path / "start"), "--dataset", str(tmp_path / "train.jsonl"), *arguments]
        monkeypatch.setattr(sys, "argv", [str(path), *given])
        return runpy.run_path(str(path), run_name="__main__")

    return run
