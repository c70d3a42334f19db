"""Means over questions that come in step by step, worked by hand."""

import pytest
import torch

from dro_trl.losses.base import ScoredSelections
from dro_trl.models.selector_generator import SelectorGeneratorOutput
from dro_trl.trainer.monitoring import Means, step_metrics


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


def test_recall_is_that_of_the_selector_as_it_is():
    """Recalls 1/2 and 0, drawn alike; the selector now takes the first three times as often: 3/4 of 1/2."""
    rows = [{"gold_ids": ["a", "b"], "candidates": [{"id": name} for name in "acd"]}, {"gold_ids": None}]
    selections = torch.tensor([[[0, 1], [1, 2]]] * 2)
    ratios = torch.tensor([[1.5, 0.5], [1.0, 1.0]]).log()
    scored = ScoredSelections(torch.zeros(2, 2), ratios, torch.zeros(2, 2))
    output = SelectorGeneratorOutput(selections=selections, entropy=torch.zeros(2))
    found = step_metrics(rows, output, scored, ratios)
    assert {name: found[name].tolist() for name in found if "recall" in name} == {
        "selection_recall": [pytest.approx(3 / 8)],
        "selection_recall/1": [pytest.approx(3 / 4)],
        "selection_recall/2": [0],
    }
