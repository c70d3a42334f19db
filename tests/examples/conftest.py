"""Running an example as it stands, on a tiny model and a few questions."""

import json
import runpy
import sys
from pathlib import Path

import pytest

import dro_trl
from dro_trl import DROConfig, DROTrainer
from tests.helpers.tiny_models import tiny_questions
from tests.helpers.training import save_start

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture
def example_data(tmp_path, monkeypatch):
    """The folder of a tiny model and a file of questions, with an empty working directory."""
    rows = tmp_path / "train.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in tiny_questions(4, 5, 6, 4)))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return save_start(tmp_path / "start"), str(rows)


@pytest.fixture
def run_example(example_data, monkeypatch):
    """A function that runs an example with `--model`, `--dataset` and what else it is given."""

    def run(name: str, *arguments: str, dataset: bool = True, **options: object) -> dict[str, object]:
        """Return the example's names after it has run, and the `trainers` that it made, with `options` of ours."""
        path = EXAMPLES / name
        assert len(path.read_text().splitlines()) < 60
        start, rows = example_data
        given = ["--model", start, *(["--dataset", rows] if dataset else [])]
        monkeypatch.setattr(sys, "argv", [str(path), *given, *arguments])
        trainers: list[DROTrainer] = []
        make = DROTrainer.__init__
        monkeypatch.setattr(DROTrainer, "__init__", lambda self, *a, **k: trainers.append(self) or make(self, *a, **k))
        monkeypatch.setattr(dro_trl, "DROConfig", lambda *a, **k: DROConfig(*a, **{**k, **options}))
        return {**runpy.run_path(str(path), run_name="__main__"), "trainers": trainers}

    return run
