"""Folders that appear whole or not at all, and that one process owns at a time."""

import json
import os
import signal
import subprocess
import sys

import pytest

from dro_trl.files.folders import locked, owned, whole_folder

HOLD = """
import pathlib, signal, subprocess, sys, time
from dro_trl.files.folders import locked, owned, whole_folder
signal.signal(signal.SIGINT, signal.default_int_handler)  # A shell has what it starts with & ignore it.
folder = pathlib.Path(sys.argv[2])
take = {"owned": owned, "locked": locked, "whole": lambda path: whole_folder(path, lambda file: True)}
with take[sys.argv[1]](folder):
    print("held", flush=True)
    time.sleep(60)
"""


def is_file_of_ours(path):
    return path.name == "file"


@pytest.fixture
def hold():
    """A function that has another process take a folder, and returns that process."""
    started = []

    def take(kind, folder):
        process = subprocess.Popen([sys.executable, "-c", HOLD, kind, folder], stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield take
    for process in started:
        process.kill()
        process.communicate()


def test_takes_the_place_of_the_target(tmp_path):
    target = tmp_path / "deep" / "index[1]"
    for content in ("first", "second"):
        with whole_folder(target, is_file_of_ours) as partial:
            (partial / "file").write_text(content)
            assert partial.parent == target.parent
        assert (target / "file").read_text() == content
        assert list(target.parent.iterdir()) == [target]


def test_an_error_leaves_what_was_there_and_names_the_folder_that_was_asked_for(tmp_path):
    target = tmp_path / "index"
    with whole_folder(target, is_file_of_ours) as partial:
        (partial / "file").touch()
    with pytest.raises(KeyboardInterrupt), whole_folder(target, is_file_of_ours):
        raise KeyboardInterrupt
    with pytest.raises(FileNotFoundError) as caught, whole_folder(target, is_file_of_ours) as partial:
        (partial / "absent").read_text()
    assert caught.value.filename == str(target / "absent")
    with pytest.raises(ValueError, match=f"^{target} is bad$"), whole_folder(target, is_file_of_ours) as partial:
        raise ValueError(f"{partial} is bad")
    assert [path.name for path in tmp_path.iterdir()] == ["index"]
    assert [path.name for path in target.iterdir()] == ["file"]


@pytest.mark.parametrize("kind", ["file", "in a folder", "hidden", "link to a file", "link to a folder", "meanwhile"])
def test_what_others_made_is_never_replaced(tmp_path, kind):
    target, elsewhere = tmp_path / "index", tmp_path / "elsewhere"
    (target / "sub").mkdir(parents=True)
    (target / "sub" / "file").touch()
    elsewhere.mkdir()
    (elsewhere / "file").write_text("mine")

    def add():
        if kind.startswith("link"):
            (target / "link").symlink_to(elsewhere if kind.endswith("folder") else elsewhere / "file")
        else:
            name = {"in a folder": "sub/notes.txt", "hidden": ".notes"}.get(kind, "notes.txt")
            (target / name).write_text("mine")

    if kind != "meanwhile":
        add()
    refused = pytest.raises(FileExistsError, match="which this command does not write")
    with refused, whole_folder(target, is_file_of_ours) as partial:
        assert kind == "meanwhile"
        (partial / "file").touch()
        add()
    assert (elsewhere / "file").read_text() == "mine"
    assert len(list(target.rglob("*"))) == 3
    assert len(list(tmp_path.iterdir())) == 2


def test_a_file_is_no_folder_to_replace(tmp_path):
    (tmp_path / "index").write_text("mine")
    with pytest.raises(FileExistsError, match="index is a file"), whole_folder(tmp_path / "index", is_file_of_ours):
        pass


def test_two_cannot_make_one_folder_and_what_a_killed_one_left_is_removed(tmp_path, hold):
    process = hold("whole", tmp_path / "i")
    (tmp_path / ".j.1.partial").mkdir()
    refused = pytest.raises(BlockingIOError, match=f"is in use by process {process.pid} on")
    with refused, whole_folder(tmp_path / "i", is_file_of_ours):
        pass
    process.kill()
    process.wait()
    (tmp_path / ".i.3.old").mkdir()
    assert len(list(tmp_path.glob(".i.*"))) == 3  # the lock, what was half made, what was there before
    with whole_folder(tmp_path / "i", is_file_of_ours):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == [".j.1.partial", "i"]


@pytest.mark.parametrize("kind", ["owned", "locked"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_lock_says_who_holds_it_and_ends_with_its_process(tmp_path, hold, kind, number):
    folder = tmp_path / "runs" / "one"
    process = hold(kind, folder)
    wanted = rf"one is in use by process {process.pid} on \S+, or one that it started, since 2\S+: -c {kind} "
    for take in (owned, locked):
        with pytest.raises(BlockingIOError, match=wanted), take(folder):
            pass
    process.send_signal(number)
    process.wait()
    assert [path.name for path in tmp_path.rglob("*.lock")] == ([".lock"] if number == signal.SIGKILL else [])
    assert (tmp_path / "runs").exists() == (number == signal.SIGKILL)
    with locked(folder):
        assert json.loads((folder / ".lock").read_text())["pid"] == os.getpid()
    assert not list(tmp_path.rglob("*.lock"))


@pytest.mark.parametrize("kept", [None, "runs", "runs/one"])
def test_a_folder_that_was_made_for_a_lock_stays_if_something_is_in_it(tmp_path, kept):
    if kept:
        (tmp_path / kept).mkdir(parents=True)
    with pytest.raises(KeyError), locked(tmp_path / "runs" / "one"):
        raise KeyError
    assert [path.name for path in tmp_path.rglob("*")] == (kept.split("/") if kept else [])
    with locked(tmp_path / "runs" / "one"):
        (tmp_path / "runs" / "one" / "file").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["runs", "one", "file"]


def test_many_take_turns_in_a_folder_that_comes_and_goes(tmp_path):
    """The lock of a folder that another process has just taken away is not lost."""
    program = (
        "import sys; from pathlib import Path; from dro_trl.files.folders import locked\n"
        "for _ in range(200):\n"
        "    try:\n"
        "        with locked(Path(sys.argv[1])): pass\n"
        "    except BlockingIOError: pass"
    )
    processes = [subprocess.Popen([sys.executable, "-c", program, tmp_path / "a" / "b"]) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert not list(tmp_path.rglob("*.lock"))


def test_once_more_in_the_same_process_does_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with owned(tmp_path):
        with owned(tmp_path / ".." / tmp_path.name):
            pass
        with pytest.raises(BlockingIOError), locked(tmp_path):
            pass
    with owned(tmp_path, by_this_process=False):
        assert not list(tmp_path.iterdir())


def test_a_process_that_was_started_holds_the_lock_too(tmp_path):
    with locked(tmp_path) as descriptor:
        child = subprocess.Popen(["sleep", "60"], pass_fds=[descriptor])
    with pytest.raises(BlockingIOError, match="or one that it started"), locked(tmp_path):
        pass
    child.kill()
    child.wait()
    with locked(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError) as caught, owned(tmp_path / "file"):
        pass
    assert caught.value.filename == str(tmp_path / "file")
