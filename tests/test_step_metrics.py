"""Means over questions that come in step by step, worked by hand."""

import torch

from dro_trl.step_metrics import Means


def test_means_are_over_values_not_over_steps():
    means = Means()
    means.add({"reward": torch.tensor([1.0, 2.0, 3.0]), "selection_recall": torch.tensor([0.5])})
    means.add({"reward": torch.tensor([10.0])})
    assert means.take() == {"reward": 4.0, "selection_recall": 0.5}
    assert means.take() == {}


def test_a_name_without_values_has_no_mean():
    means = Means()
    means.add({"reward": torch.tensor([])})
    assert means.take() == {}
