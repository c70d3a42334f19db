"""Intervals over questions and seeds: against values worked by hand, other code, and a known truth."""

import numpy as np
import pytest
from scipy.stats import bootstrap

from dro_trl.recipes.studies import statistics
from dro_trl.recipes.studies.statistics import UNTRAINED, SeededComparison, compare_seeded, crossed_interval, summarise


def test_with_one_seed_it_is_the_bootstrap_over_questions():
    values = np.random.default_rng(0).normal(0.3, 1, (1, 80))
    expected = bootstrap((values[0],), np.mean, n_resamples=10_000, method="percentile", rng=1).confidence_interval
    assert crossed_interval(values) == pytest.approx([expected.low, expected.high], abs=0.02)


def test_two_seeds_and_many_equal_questions_by_hand():
    """Means 0 and 1 over questions that are all alike: a resample of the two seeds has mean 0, 1/2 or 1, with
    probability 1/4, 1/2, 1/4, so the middle 95 % reach from 0 to 1."""
    table = np.array([np.zeros(50), np.ones(50)])
    assert crossed_interval(table) == [0, 1]
    assert crossed_interval(np.full((3, 9), 0.5)) == [0.5, 0.5]
    assert crossed_interval(np.ones((3, 1))) is None


def test_blocks_of_resamples_change_nothing_but_the_draws(monkeypatch):
    table = np.random.default_rng(0).normal(0, 1, (3, 40))
    whole = crossed_interval(table)
    monkeypatch.setattr(statistics, "_BLOCK_ELEMENTS", 40 * 700)
    monkeypatch.setattr(statistics, "_draws", statistics._draws.__wrapped__)
    assert crossed_interval(table) != whole
    assert crossed_interval(table) == pytest.approx(whole, abs=0.02)
    assert crossed_interval(table) == crossed_interval(table)


def test_tables_of_one_size_are_resampled_alike_and_drawn_once(monkeypatch):
    tables = np.random.default_rng(0).normal(0, 1, (5, 3, 40))
    drawn = [crossed_interval(table, seed=7) for table in tables]
    statistics._draws.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(statistics, "_draws", statistics._draws.__wrapped__)
        assert [crossed_interval(table, seed=7) for table in tables] == drawn
    calls, draw = [], statistics._draw
    monkeypatch.setattr(statistics, "_draw", lambda *given: calls.append(given) or draw(*given))
    assert [crossed_interval(table, seed=7) for table in tables] == drawn
    assert len(calls) == 1
    for other in (tables[0][:2], tables[0][:, 1:]):
        crossed_interval(other, seed=7)
    assert len(calls) == 3


def test_questions_of_the_same_scores_are_drawn_as_one(monkeypatch):
    table = np.random.default_rng(0).integers(0, 3, (3, 400)) / 2 + np.array([[0.0], [0.1], [0.3]])
    whole = crossed_interval(table)
    monkeypatch.setattr(statistics, "MANY", 400)
    assert crossed_interval(table) == pytest.approx(whole, abs=0.03 * np.ptp(whole))


def test_intervals_cover_a_mean_that_seeds_and_questions_move():
    """Of 200 tables with effects of seed, question and both, 95 % intervals miss the true mean in few."""
    rng, covered = np.random.default_rng(0), 0
    for _ in range(200):
        table = rng.normal(0, 0.1, (8, 1)) + rng.normal(0, 0.5, (1, 60)) + rng.normal(0, 0.5, (8, 60))
        low, high = crossed_interval(table, n_resamples=500)
        covered += low <= 0 <= high
    assert covered >= 180


def scores(**systems):
    return {name: {"em": {s: np.array(v, float) for s, v in by_seed.items()}} for name, by_seed in systems.items()}


def test_differences_are_of_the_same_seed_and_question():
    """Seed 0: (1, 1, 0) - (0, 1, 0) = (1, 0, 0); seed 2: (1, 0, 1) - (1, 0, 0) = (0, 0, 1); mean 2/6.
    Seed 1 has no partner; against the untrained (0, 1, 1) all three count: (1, 0, -1), (0, 0, 0), (1, -1, 0)."""
    given = scores(
        a={0: [1, 1, 0], 1: [0, 1, 1], 2: [1, 0, 1]},
        b={0: [0, 1, 0], 2: [1, 0, 0]},
        start={UNTRAINED: [0, 1, 1]},
        none={UNTRAINED: [np.nan] * 3},
        late={7: [1, 1, 1]},
    )
    found = compare_seeded(given, "a", "b", "em")
    assert (found.delta, found.n, found.seeds) == (pytest.approx(2 / 6), 3, [0, 2])
    found = compare_seeded(given, "a", "start", "em")
    assert (found.delta, found.seeds) == (0, [0, 1, 2])
    assert compare_seeded(given, "a", "none", "em") is None
    assert compare_seeded(given, "a", "late", "em") is None


def test_questions_without_the_metric_are_left_out():
    given = scores(a={0: [1, np.nan, 0], 1: [1, np.nan, 1]}, start={UNTRAINED: [0, np.nan, 0]})
    found = compare_seeded(given, "a", "start", "em")
    assert (found.delta, found.n) == (0.75, 2)


@pytest.mark.parametrize(
    ("delta", "interval", "verdict", "sentence"),
    [
        (0.2, [0.1, 0.3], "better", "a is better than b in EM: +0.200 [+0.100, +0.300]."),
        (-0.2, [-0.3, -0.1], "worse", "a is worse than b in EM: -0.200 [-0.300, -0.100]."),
        (0.1, [-0.1, 0.3], "not told apart", "a and b are not told apart in EM: +0.100 [-0.100, +0.300]."),
        (0.0, [0.0, 0.0], "not told apart", "a and b are not told apart in EM: +0.000 [+0.000, +0.000]."),
        (1.0, None, "not told apart", "a and b are not told apart in EM: +1.000, too few questions for an interval."),
    ],
)
def test_what_an_interval_says(delta, interval, verdict, sentence):
    comparison = SeededComparison("a", "b", "em", delta, interval, 10, [0], 0, 100)
    assert (comparison.verdict, comparison.sentence) == (verdict, sentence)


def test_mean_and_spread_by_hand():
    """Means 0.5 and 1 over the two questions that have the metric: 0.75, and a standard deviation of 0.5 / sqrt(2)."""
    em = {0: np.array([1, 0, np.nan]), 3: np.array([1, 1, np.nan])}
    found = summarise({"em": em, "mrr": {0: np.array([np.nan])}})
    assert found["em"] == 0.75
    assert found["mrr"] is None
    spread = found["spread"]["em"]
    assert spread["sd"] == pytest.approx(0.5 / 2**0.5)
    assert (spread["min"], spread["max"], spread["by_seed"]) == (0.5, 1, {"0": 0.5, "3": 1.0})
    single = summarise({"em": {UNTRAINED: np.array([1.0, 0.0])}})
    assert single["spread"]["em"]["sd"] is None
