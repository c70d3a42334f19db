"""The images: written, of the expected size, with a panel per metric and ink in each."""

import numpy as np
import pytest
from matplotlib.image import imread

from dro_trl.evaluation.comparison import compare
from dro_trl.evaluation.plots import plot_comparison, plot_training

KEYS = ["reward", "iw_bound", "ess", "entropy", "frac_unique_selections", "selection_recall", "loss"]


def history(keys: list[str], steps: int = 30) -> list[dict[str, float]]:
    rng = np.random.default_rng(0)
    return [{"step": step + 1, **{key: float(rng.random()) for key in keys}} for step in range(steps)]


def pixels(path) -> tuple[int, int]:
    """Return the image's width and height, having checked that it is not blank."""
    image = imread(path)[..., :3]
    assert image.std() > 0.05
    return image.shape[1], image.shape[0]


@pytest.mark.parametrize(
    ("num_panels", "columns", "rows"), [(1, 1, 1), (2, 2, 1), (3, 3, 1), (4, 3, 2), (6, 3, 2), (7, 4, 2)]
)
def test_one_panel_per_metric(tmp_path, num_panels, columns, rows):
    (path,) = plot_training(history(KEYS[:num_panels]), tmp_path / "plots")
    assert path == tmp_path / "plots" / "training.png"
    expected = round(150 * 3.3 * columns), round(150 * (2.5 * rows + 0.4))
    assert pixels(path) == pytest.approx(expected, abs=1)  # Versions of matplotlib round to one side or the other.


def test_a_place_without_a_metric_is_blank(tmp_path):
    (path,) = plot_training(history(KEYS[:4]), tmp_path)
    image = imread(path)[..., :3]
    height, width = image.shape[:2]
    assert image[height // 2 : height * 4 // 5, width * 3 // 4 :].min() == 1


def test_other_records_and_keys_change_nothing(tmp_path):
    records = history(["reward", "entropy"])
    (plain,) = plot_training(records, tmp_path / "plain")
    records[5:5] = [{"step": 5, "eval_reward": 9.0, "learning_rate": 1e-5}]
    (mixed,) = plot_training([*records, {"step": 30, "train_loss": 2.0}], tmp_path / "mixed")
    np.testing.assert_array_equal(imread(plain), imread(mixed))


def test_ess_is_drawn_against_its_range(tmp_path):
    records = history(["ess"])
    (without,) = plot_training(records, tmp_path / "without")
    (within,) = plot_training([{**record, "num_selections": 8} for record in records], tmp_path / "within")
    assert not np.array_equal(imread(without), imread(within))


def test_a_single_record_is_visible(tmp_path):
    blue = []
    for name, records in [("one", history(["reward"], steps=1)), ("none", [{"step": 1, "reward": float("nan")}])]:
        (path,) = plot_training(records, tmp_path / name)
        image = imread(path)
        blue.append(int((image[: image.shape[0] * 3 // 4, :, 2] > image[: image.shape[0] * 3 // 4, :, 0] + 0.1).sum()))
    assert blue[0] > blue[1] == 0


@pytest.mark.parametrize("records", [[], [{"step": 10, "train_loss": 1.0}]])
def test_nothing_to_draw(tmp_path, records):
    assert plot_training(records, tmp_path / "plots") == []
    assert not (tmp_path / "plots").exists()


@pytest.mark.parametrize(("gold_every", "num_metrics"), [(1, 4), (1000, 4), (None, 2)])
def test_comparison(make_system, tmp_path, gold_every, num_metrics):
    """Bars for recall@1, recall@2, EM and F1; without gold passages for EM and F1 only; one gold has no interval."""
    systems = {f"system {i}": make_system(i, 0.2 * i, 0.2 * i, gold_every=gold_every or 1) for i in range(5)}
    if gold_every is None:
        systems = {name: [{**p, "gold_ids": None} for p in system] for name, system in systems.items()}
    report = compare(systems, target="system 0", baselines=[], ks=[1, 2], seed=0, n_resamples=200)
    path = plot_comparison(report, tmp_path / "new" / "comparison.png")
    assert path == tmp_path / "new" / "comparison.png"
    assert pixels(path) == (round(150 * (1.4 * num_metrics + 2.5)), round(150 * 3.4))
