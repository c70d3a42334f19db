"""What is written is whole, or not there."""

import json
import stat

import pytest

from dro_trl.atomic_write import atomic_path, write_json, write_jsonl


def write_half(path):
    with atomic_path(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "new folder" / "a.json"
    write_json(path, {"é": [1.5]})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, float("nan"), allow_nan=False)
    with pytest.raises(KeyboardInterrupt):
        write_half(path)
    with pytest.raises(TypeError):
        write_jsonl(path, [{"whole": 1}, {"broken": object()}])
    assert path.read_text(encoding="utf-8") == '{\n  "é": [\n    1.5\n  ]\n}\n'
    assert [entry.name for entry in path.parent.iterdir()] == ["a.json"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_a_line_a_row(tmp_path):
    write_jsonl(tmp_path / "rows.jsonl", iter([{"a": "ü"}, {"b": None}]))
    lines = (tmp_path / "rows.jsonl").read_text(encoding="utf-8").splitlines()
    assert lines == ['{"a": "ü"}', '{"b": null}']
    assert [json.loads(line) for line in lines] == [{"a": "ü"}, {"b": None}]
