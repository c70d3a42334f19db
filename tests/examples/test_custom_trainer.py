"""Subclasses that override one method each, and what comes of it."""

import runpy

import pytest
import torch

from dro_trl import DROTrainer
from dro_trl.losses.base import ScoredSelections
from tests.examples.conftest import EXAMPLES
from tests.helpers.training import make_trainer


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


LOGPS = torch.tensor([[-1.0, -2.0, -3.0], [-2.0, -4.0, -6.0]])


def test_the_weights(classes, tmp_path):
    rewards = torch.tensor([[0.2, 0.5, 0.3], [0.9, 0.1, 0.0]])
    trainer = make_trainer(tmp_path, trainer_class=classes["BestOnly"])
    assert trainer.weights(ScoredSelections(LOGPS, 0 * LOGPS, rewards)).tolist() == [[0, 1, 0], [1, 0, 0]]


def test_the_loss(classes, tmp_path):
    """Variances 1 and 4, so that 0.1 * 2.5 is added to the loss of DROTrainer."""
    scored, weight = ScoredSelections(LOGPS, 0 * LOGPS, 0 * LOGPS), torch.tensor([[1.0, 0.0, 0.0]] * 2)
    losses = [
        float(make_trainer(tmp_path, trainer_class=kind, train_generator=False).loss(None, scored, weight))
        for kind in (DROTrainer, classes["NearUniform"])
    ]
    assert losses[0] == pytest.approx(-(2 / 3 * 1 - 1 / 3 * 5 + 2 / 3 * 2 - 1 / 3 * 10) / -2)
    assert losses[1] - losses[0] == pytest.approx(0.25)


def test_the_rewards(classes, tmp_path):
    def given(completions, **kwargs):
        return [0.0, -3.0, -8.0, -5.0]

    trainer = make_trainer(tmp_path, trainer_class=classes["Clipped"], reward_funcs=given)
    row = trainer.train_dataset[0]
    output = trainer.model([row], torch.tensor([[[0, 1], [1, 0], [2, 0], [2, 1]]]))
    assert trainer.rewards([row], output).tolist() == [[0.0, -3.0, -5.0, -5.0]]
