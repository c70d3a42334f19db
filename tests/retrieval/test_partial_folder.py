"""Folders that appear whole or not at all."""

import fcntl
import os

import pytest

from dro_trl.retrieval.partial_folder import partial_folder


def test_takes_the_place_of_the_target(tmp_path):
    target = tmp_path / "deep" / "index[1]"
    for content in ("first", "second"):
        with partial_folder(target) as partial:
            (partial / "file").write_text(content)
            assert partial.parent == target.parent
        assert (target / "file").read_text() == content
        assert list(target.parent.iterdir()) == [target]


def test_an_error_leaves_what_was_there(tmp_path):
    target = tmp_path / "index"
    with partial_folder(target) as partial:
        (partial / "file").touch()
    with pytest.raises(KeyboardInterrupt), partial_folder(target):
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["index"]
    assert [path.name for path in target.iterdir()] == ["file"]


def test_only_folders_of_dead_processes_are_removed(tmp_path):
    abandoned, in_use, other = (tmp_path / name for name in (".i.1.partial", ".i.2.partial", ".j.1.partial"))
    for folder in (abandoned, in_use, other):
        folder.mkdir()
    (tmp_path / ".i.3.old").mkdir()
    descriptor = os.open(in_use, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with partial_folder(tmp_path / "i"):
        assert not abandoned.exists()
    os.close(descriptor)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".i.2.partial", ".j.1.partial", "i"]
