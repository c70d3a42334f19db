"""The table of many GPUs, one row of it."""

import json
import sys

import many_gpus
import pytest


def test_fewer_passes_are_fewer_gathers(tmp_path, monkeypatch, capsys):
    output = tmp_path / "found.json"
    found = {}
    for micro_steps in (1, 4):
        options = ["--models", "0.5B", "--backends", "ZeRO-3", "--gpus", "64", "--micro_steps", str(micro_steps)]
        monkeypatch.setattr(sys, "argv", ["many_gpus.py", *options, "--output", str(output)])
        many_gpus.main()
        found[micro_steps] = json.loads(output.read_text())["rows"]
    assert [row["trained"] for row in found[1]] == ["all", "LoRA"]
    for one, four in zip(found[1], found[4], strict=True):
        assert four["exchanging"] == pytest.approx(4 * one["exchanging"])
        assert four["computing"] == pytest.approx(one["computing"], rel=0.01)
        assert one["memory"] > four["memory"]
    assert "the exchange" in capsys.readouterr().out
