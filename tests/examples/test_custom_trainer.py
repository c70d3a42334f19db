"""Subclasses that override one method each, and what comes of it."""

import runpy
from types import SimpleNamespace

import pytest
import torch

from dro_trl import DROTrainer
from tests.examples.conftest import EXAMPLES
from tests.training import make_trainer


@pytest.fixture(scope="module")
def classes():
    return runpy.run_path(str(EXAMPLES / "custom_trainer.py"))


def test_the_example(run_example):
    (trainer,) = run_example("custom_trainer.py", "BestOnly", max_steps=2)["trainers"]
    assert type(trainer).__name__ == "BestOnly"
    assert trainer.state.global_step == 2


def test_the_estimation_step(classes, tmp_path):
    trainer = make_trainer(tmp_path, trainer_class=classes["Annealed"], num_iterations=2, max_steps=4)
    drawn_at = []
    forward = trainer.model.forward
    trainer.model.forward = lambda *args, **kwargs: drawn_at.append(kwargs) or forward(*args, **kwargs)
    trainer.train()
    assert [call["temperature"] for call in drawn_at if call["selections"] is None] == [2.0, 1.5]


def losses(classes, name, tmp_path, monkeypatch, weight, logps):
    """The loss of the class and that of DROTrainer's `loss` for what it passes on."""
    passed = []
    monkeypatch.setattr(
        DROTrainer, "loss", lambda self, output, weight, *rest: passed.append(weight) or torch.zeros(())
    )
    trainer = make_trainer(tmp_path, trainer_class=classes[name])
    return float(trainer.loss(SimpleNamespace(selector_logps=logps), weight, None, None)), passed[0]


def test_the_weights(classes, tmp_path, monkeypatch):
    weight = torch.tensor([[0.2, 0.5, 0.3], [0.9, 0.1, 0.0]])
    _, passed = losses(classes, "BestOnly", tmp_path, monkeypatch, weight, None)
    assert passed.tolist() == [[0, 1, 0], [1, 0, 0]]


def test_the_loss(classes, tmp_path, monkeypatch):
    """Variances 1 and 4, so that 0.1 * 2.5 is added."""
    logps, weight = torch.tensor([[-1.0, -2.0, -3.0], [-2.0, -4.0, -6.0]]), torch.full((2, 3), 1 / 3)
    loss, passed = losses(classes, "NearUniform", tmp_path, monkeypatch, weight, logps)
    assert passed is weight
    assert loss == pytest.approx(0.25)


def test_the_rewards(classes, tmp_path):
    def given(completions, **kwargs):
        return [0.0, -3.0, -8.0, -5.0]

    trainer = make_trainer(tmp_path, trainer_class=classes["Clipped"], reward_funcs=given)
    row = trainer.train_dataset[0]
    output = trainer.model([row], torch.tensor([[[0, 1], [1, 0], [2, 0], [2, 1]]]))
    assert trainer.rewards([row], output).tolist() == [[0.0, -3.0, -5.0, -5.0]]
