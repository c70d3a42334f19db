"""The formulas on published trainings."""

import json
import sys
from dataclasses import replace

import published_runs
import pytest


@pytest.mark.parametrize(
    ("place", "published"), [(0, 0.611), (1, 0.505), (2, 0.517)], ids=["13B", "70B of Llama 2", "70B of Llama 3"]
)
def test_operations_are_those_of_the_published_share(place, published):
    """Torchtitan counts nothing that is made again, and attention as if nothing were skipped."""
    run = replace(published_runs.RUNS[place], checkpointing=False)
    share = published_runs.compare(run, 0.4)["share_of_peak"]
    skipped = 3 * 2 * run.length * run.shape.queries * run.shape.layers  # Operations a token, half of attention's.
    assert share + skipped * run.rate / published_runs.PEAK == pytest.approx(published, rel=0.02)


@pytest.mark.parametrize(("place", "billions"), [(0, 13.0), (1, 69.0), (2, 70.6), (3, 33.7)])
def test_the_shapes_are_those_of_the_models(place, billions):
    assert published_runs.RUNS[place].shape.parameters / 1e9 == pytest.approx(billions, rel=0.01)


def test_a_row_a_run(tmp_path, monkeypatch, capsys):
    output = tmp_path / "found.json"
    monkeypatch.setattr(sys, "argv", ["published_runs.py", "--utilization", "0.57", "--output", str(output)])
    published_runs.main()
    first, *others = json.loads(output.read_text())["rows"]
    assert len(others) == len(published_runs.RUNS) - 1
    assert first["expected"] == pytest.approx(first["published"], rel=0.01)
    assert "Llama 3 70B" in capsys.readouterr().out
