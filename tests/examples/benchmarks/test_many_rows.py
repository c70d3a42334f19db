"""The stages on a few rows."""

import json
import sys

import many_rows
import pytest


@pytest.mark.slow
def test_every_stage_is_measured(tmp_path, monkeypatch, capsys):
    output, picture = tmp_path / "found.json", tmp_path / "found.png"
    monkeypatch.setattr(many_rows, "PASSAGES", 200)
    options = ["--num_rows", "30", "--evaluated", "5", "--output", str(output), "--plot", str(picture)]
    monkeypatch.setattr(sys, "argv", ["many_rows.py", *options])
    many_rows.main()
    rows = json.loads(output.read_text())["rows"]
    assert rows.keys() == {"10", "30"}
    for found in rows.values():
        assert found.keys() == {"index", *many_rows.STAGES}
        assert all(stage["seconds"] > 0.1 and stage["peak_mib"] > 10 for stage in found.values())
    assert picture.stat().st_size > 1000
    assert "evaluate" in capsys.readouterr().out


def test_a_command_that_fails_is_told():
    with pytest.raises(RuntimeError, match="dro-trl index ended with 2: error: .*nowhere"):
        many_rows.run(["index", "--corpus", "nowhere.jsonl", "--index_dir", "index"])


def test_imports_are_left_out(tmp_path):
    stage = {"seconds": 2.0, "peak_mib": 100.0}
    found = {
        10: dict.fromkeys(many_rows.STAGES, stage),
        1000: dict.fromkeys(many_rows.STAGES, stage | {"seconds": 3.0}),
    }
    assert many_rows.plot(found, tmp_path / "found.png").is_file()
