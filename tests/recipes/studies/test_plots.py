"""A study's plots: in both themes, with all methods, and with what their lines and shades are of."""

import numpy as np
import pytest
from matplotlib.image import imread

from dro_trl.recipes.studies.plots import plot_curves, plot_differences, plot_scores
from dro_trl.recipes.studies.statistics import SeededComparison, summarise

LOG = [{"step": 1, "reward": 0.5}, {"step": 2, "reward": 0.7}, {"step": 2, "train_loss": 1.0}]


def ground(path):
    """Return the colour of an image's corner, having checked that something is drawn on it."""
    image = imread(path)[..., :3]
    assert image.std() > 0.02
    return image[0, 0].mean()


def test_many_methods_are_drawn_in_several_plots_all_with_the_first(tmp_path):
    plots = plot_curves({f"m{i}": [LOG, LOG] for i in range(12)}, tmp_path)
    assert [plot.name for plot in plots] == ["reward.1", "reward.2", "reward.3"]
    assert [plot.alt.count(" m0,") for plot in plots] == [1, 1, 1]
    assert sum(plot.alt.count(" m") for plot in plots) == 12 + 2
    for plot in plots:
        assert ground(tmp_path / f"{plot.name}.png") == 1
        assert ground(tmp_path / f"{plot.name}.dark.png") < 0.2


def test_the_shade_is_the_range_of_the_seeds(tmp_path):
    """One seed twice has no range: a second that differs changes the picture."""
    other = [{"step": 1, "reward": 0.4}, {"step": 2, "reward": 0.9}]
    for name, logs in (("same", [LOG, LOG]), ("other", [LOG, other])):
        plot_curves({"m": logs}, tmp_path / name)
    same, differing = (imread(tmp_path / name / "reward.png") for name in ("same", "other"))
    assert same.shape == differing.shape
    assert not np.array_equal(same, differing)


def test_a_step_that_one_seed_lacks_and_a_method_without_the_measure_are_left_out(tmp_path):
    longer = [*LOG, {"step": 3, "reward": 5.0}]
    plot_curves({"m": [LOG, LOG]}, tmp_path / "a")
    (plot,) = plot_curves({"m": [LOG, longer], "n": [[{"step": 1, "loss": 2.0}]]}, tmp_path / "b")
    assert " of m;" in plot.alt
    np.testing.assert_array_equal(imread(tmp_path / "a" / "reward.png"), imread(tmp_path / "b" / "reward.png"))
    assert plot_curves({"m": [[{"step": 1, "loss": 2.0}]]}, tmp_path / "c") == []


@pytest.mark.parametrize("interval", [[0.1, 0.3], None])
def test_scores_and_differences(tmp_path, interval):
    systems = {"start": summarise({"em": {-1: np.array([0.0, 1, 0])}}), "a": summarise({"em": {0: np.ones(3)}})}
    (scores,) = plot_scores(systems, ["recall@2", "em"], tmp_path)
    assert (scores.name, scores.alt.endswith("of start, a.")) == ("scores.em", True)
    comparison = SeededComparison("a", "b", "recall@2", 0.2, interval, 3, [0], 0, 10)
    (differences,) = plot_differences([comparison], tmp_path)
    assert (differences.name, differences.alt.startswith("recall@2: difference from b")) == (
        "differences.recall_2",
        True,
    )
    for plot in (scores, differences):
        assert ground(tmp_path / f"{plot.name}.png") == 1
        assert ground(tmp_path / f"{plot.name}.dark.png") < 0.2
