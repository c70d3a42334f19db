"""Digests of files and folders: what changes them, and what is not read again."""

import json
import os

import pytest

from dro_trl.recipes.runs import digests as fingerprint
from dro_trl.recipes.runs.digests import Digests
from dro_trl.records import file_digest


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "model" / "selector").mkdir(parents=True)
    (tmp_path / "model" / "selector" / "weights").write_text("abc")
    (tmp_path / "model" / "config").write_text("{}")
    return tmp_path / "model"


def test_a_folder_is_its_files(folder, tmp_path):
    digests = Digests(tmp_path / "store.json")
    first = digests.of(folder)
    for name in ("checkpoint-1", ".cache"):
        (folder / name).mkdir()
        (folder / name / "weights").write_text("x")
    assert digests.of(folder) == first
    (folder / "selector" / "weights").rename(folder / "weights")
    moved = digests.of(folder)
    (folder / "weights").write_text("abd")
    assert len({first, moved, digests.of(folder)}) == 3


def test_a_folder_that_a_stage_made_is_its_record(folder, tmp_path):
    digests = Digests(tmp_path / "store.json")
    (tmp_path / "stage.json").write_text("{}")
    first = digests.of(folder)
    (folder / "config").write_text("{more}")
    assert digests.of(folder) == first == file_digest(tmp_path / "stage.json")


def test_what_has_not_changed_is_not_read_again(folder, tmp_path, monkeypatch):
    """Not even by another process; what has changed is, though its size and its time of modification are the same."""
    digests = Digests(tmp_path / "store.json")
    first = digests.of(folder)
    digests.save()
    read = []
    monkeypatch.setattr(fingerprint, "file_digest", lambda path: read.append(path.name) or file_digest(path))
    again = Digests(tmp_path / "store.json")
    assert again.of(folder) == first
    assert read == []
    weights = folder / "selector" / "weights"
    before = weights.stat()
    weights.write_text("abd")
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert again.of(folder) != first
    assert read == ["weights"]
    assert len(json.loads((tmp_path / "store.json").read_text())) == 2


def test_what_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        Digests(tmp_path / "store.json").of(tmp_path / "none")
