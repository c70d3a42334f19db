"""A function as a reward, weighted with another, from Python and from a recipe."""

import sys

import pytest

from dro_trl.recipes.arguments import parse_recipe
from dro_trl.recipes.training import run_recipe
from tests.examples.conftest import EXAMPLES
from tests.helpers.training import logged


def check(trainer):
    assert trainer.state.global_step == 2
    in_selection, likelihood = (
        logged(trainer, f"rewards/{n}") for n in ("answer_in_selection", "answer_log_likelihood")
    )
    assert all(0 <= value <= 1 for value in in_selection)
    assert max(in_selection) > 0
    total = [a + 5 * b for a, b in zip(likelihood, in_selection, strict=True)]
    assert logged(trainer, "reward") == pytest.approx(total, abs=1e-4)


def test_from_python(run_example):
    names = run_example("custom_reward.py", "--max_steps", "2", logging_steps=1)
    passages = [{"text": "Oslo is in Norway"}, {"text": "Lima"}]
    given = {"selections": [[0], [1]], "candidates": [passages] * 2, "answers": [["oslo"]] * 2}
    assert names["answer_in_selection"](**given, other=None) == [1.0, 0.0]
    check(names["trainers"][0])


def test_from_a_recipe(example_data, monkeypatch):
    """The recipe as it stands; its reward is in the file beside it."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "custom_reward", raising=False)
    start, dataset = example_data
    options = ["--model_name_or_path", start, "--dataset_name", dataset, "--max_steps", "2", "--logging_steps", "1"]
    trainer = run_recipe(*parse_recipe(["--config", str(EXAMPLES / "custom_reward.yaml"), *options]))
    check(trainer)
