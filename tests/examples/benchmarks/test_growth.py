"""The benchmark of growth: what it measures, that it goes on where it stopped, and that its processes are real."""

import json
import sys

import growth
import pytest

MIDDLE = {"num_candidates": 20, "num_selections": 4, "passage_tokens": 100, "num_questions": 1, "num_processes": 1}


def seconds_of(point):
    """A stand-in for a measurement: so many seconds as there are candidates, halved by a second process."""
    return point["num_candidates"] / point["num_processes"]


class Measurements:
    """Stands in for `growth.run`; the machine is switched off after so many."""

    def __init__(self, number):
        self.left, self.points = number, []

    def __call__(self, point, steps):
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        self.points.append(point)
        return {"seconds": seconds_of(point), "processor_seconds": 1.0, "peak_mib": 100.0 * point["num_selections"]}


def test_one_variable_at_a_time():
    points = growth.points()
    assert len(points) == sum(map(len, growth.VALUES.values())) - 4 == 16
    assert points.count(MIDDLE) == 1
    for point in points:
        assert sum(point[name] != value for name, value in MIDDLE.items()) == (point != MIDDLE)


def test_an_interrupted_run_goes_on(tmp_path, monkeypatch, capsys):
    first, second, third = Measurements(21), Measurements(100), Measurements(100)
    argv = ["growth.py", "--rounds", "2", "--output", f"{tmp_path}/growth.json", "--plot", f"{tmp_path}/growth.png"]
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setattr(growth, "run", first)
    with pytest.raises(KeyboardInterrupt):
        growth.main()
    monkeypatch.setattr(growth, "run", second)
    growth.main()
    assert first.points + second.points == 2 * growth.points()
    monkeypatch.setattr(growth, "run", third)
    growth.main()
    assert third.points == []

    rows = json.loads((tmp_path / "growth.json").read_text())
    assert [row["point"] for row in rows] == growth.points()
    assert {len(row["runs"]) for row in rows} == {2}
    assert growth.series(rows, "num_candidates", "seconds") == [(n, [n, n]) for n in (5, 10, 20, 40, 100)]
    assert growth.series(rows, "num_processes", "seconds") == [(1, [20, 20]), (2, [10, 10])]
    assert growth.series(rows, "num_selections", "peak_mib") == [(m, [100 * m] * 2) for m in (2, 4, 8, 16, 64)]
    assert (tmp_path / "growth.png").stat().st_size < 150_000
    assert "2.00" in capsys.readouterr().out  # N = 40 over N = 20.


def test_a_variable_alone(tmp_path, monkeypatch):
    alone = Measurements(100)
    paths = ["--output", f"{tmp_path}/growth.json", "--plot", f"{tmp_path}/growth.png"]
    monkeypatch.setattr(sys, "argv", ["growth.py", "--rounds", "1", "--variables", "passage_tokens", *paths])
    monkeypatch.setattr(growth, "run", alone)
    growth.main()
    assert [point["passage_tokens"] for point in alone.points] == [100, 50, 200]


@pytest.mark.slow
def test_two_real_processes():
    """Two steps of the 25M models on few and short passages; `train` asserts how many processes there are."""
    found = growth.run({**MIDDLE, "num_candidates": 6, "passage_tokens": 10, "num_processes": 2}, steps=2)
    assert found.keys() == {"seconds", "processor_seconds", "peak_mib"}
    weights_of_adamw = 2 * 25e6 * 4 * 4 / 2**20
    assert found["peak_mib"] > 0.9 * weights_of_adamw
