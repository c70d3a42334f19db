"""The two traps, told apart by entropy and unique selections, and healthy runs, which none of them is."""

import math

import pytest
import torch

from dro_trl.trainer.monitoring import (
    COLLAPSED,
    MEMORISED,
    CollapseMonitor,
    effective_sample_size,
    expected_unique_fraction,
)

COLLAPSING = {"ess": 15.9, "entropy": 0.01, "frac_unique_selections": 1 / 16}
MEMORISING = {"ess": 15.8, "entropy": 9.0, "frac_unique_selections": 0.9}
HEALTHY = {"ess": 6.0, "entropy": 4.0, "frac_unique_selections": 0.8}


def messages(records: list[dict[str, float]], window: int = 5) -> list[str | None]:
    monitor = CollapseMonitor(num_selections=16, window=window)
    return [monitor.update(record) for record in records]


def test_collapsed_selector():
    """Once, when the window is full: 1/16 of 16 selections are 1.0 distinct ones."""
    *before, said, after = messages([COLLAPSING] * 6)
    assert before == [None] * 4
    assert after is None
    assert "the selector has collapsed: over the last 5 steps it drew 1.0 distinct selections of 16" in said
    assert "entropy 0.01 nats, ESS 15.9" in said
    assert "entropy_coef" in said


def test_collapsed_on_the_wrong_selection():
    said = messages([{**COLLAPSING, "selection_recall": 0.25}] * 5)[-1]
    assert "the selector has collapsed" in said
    assert "recall of the sampled selections 0.25" in said


def test_generator_that_knows_the_answers_by_heart():
    """0.9 of 16 selections are 14.4 distinct ones, and the likelihood is the same for all."""
    *before, said, after = messages([MEMORISING] * 6)
    assert before == [None] * 4
    assert after is None
    assert "the generator no longer needs the passages" in said
    assert "14.4 distinct selections of 16 (ESS 15.8)" in said
    assert "train_generator=False" in said


@pytest.mark.parametrize(
    "record",
    [
        HEALTHY,
        {**COLLAPSING, "selection_recall": 0.95},  # It has learnt which passages are right.
        {**MEMORISING, "selection_recall": 0.9},
        {**COLLAPSING, "ess": 15.1},  # ESS / M = 0.94.
        {**MEMORISING, "frac_unique_selections": 0.4},  # Neither one selection nor most of them.
        {**COLLAPSING, "ess": math.nan},
    ],
)
def test_neither(record):
    assert messages([record] * 20) == [None] * 20


def test_both_one_after_the_other():
    """Each is said once, also where a healthy stretch lies between."""
    said = messages([MEMORISING] * 8 + [HEALTHY] * 8 + [COLLAPSING] * 8 + [MEMORISING] * 8)
    assert [i for i, message in enumerate(said) if message] == [4, 20]
    assert said[4].startswith(MEMORISED[:20])
    assert said[20].startswith(COLLAPSED[:20])


def test_window_forgets_what_is_past():
    """Four collapsing steps among healthy ones are not enough; with a window of one each step is judged alone."""
    assert messages([HEALTHY, *[COLLAPSING] * 4, HEALTHY, *[COLLAPSING] * 4]) == [None] * 10
    assert [message is not None for message in messages([HEALTHY] * 9 + [COLLAPSING], window=1)] == [False] * 9 + [
        True
    ]


def test_recall_known_of_some_steps_only():
    """The mean recall of the steps that know it, 0.5 here."""
    said = messages([COLLAPSING, {**COLLAPSING, "selection_recall": 0.5}, COLLAPSING], window=3)[-1]
    assert "recall of the sampled selections 0.50" in said


@pytest.mark.parametrize(
    ("drawn", "weights", "unique", "size"),
    [
        ([1.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0], 1 / 4, 4.0),  # Collapsed: four draws would be one.
        ([0.25] * 4, [0.25] * 4, 1 - (3 / 4) ** 4, 4.0),  # Flat, and the likelihood says nothing.
        ([0.25] * 4, [1.0, 0.0, 0.0, 0.0], 1 - (3 / 4) ** 4, 1.0),
        ([0.5, 0.25, 0.25, 0.0], [0.5, 0.25, 0.25, 0.0], (1 - 1 / 16 + 2 * (1 - 81 / 256)) / 4, 4.0),
    ],
)
def test_distinct_selections_tell_the_same_as_draws(drawn, weights, unique, size):
    """Drawn without replacement, both measures are those that four independent draws would have."""
    selections = torch.tensor([[[0, 1], [1, 0], [0, 2], [2, 0]]])
    drawn, weights = torch.tensor([drawn]), torch.tensor([weights])
    assert expected_unique_fraction(selections, drawn).item() == pytest.approx(unique)
    assert effective_sample_size(weights, drawn).item() == pytest.approx(size)


def test_copies_count_as_one():
    """Two selections in four places, of 1/2 each together: of four draws 2 (1 - 1/16) are expected to differ."""
    selections = torch.tensor([[[0, 1], [1, 0], [0, 1], [1, 0]]])
    assert expected_unique_fraction(selections, torch.full((1, 4), 0.25)).item() == pytest.approx(15 / 32)
