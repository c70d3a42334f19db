"""Files that grow: a killed command's are gone on with, whole or not at all."""

import os
import signal
import sys
from pathlib import Path

import pytest

from dro_trl.files import folders, unfinished
from dro_trl.files import writing as atomic_write
from dro_trl.files.unfinished import unfinished as growing

LINES = [f"line {number} ä\n" for number in range(5)]
WANTED = {"rows": "".join(LINES), "run": "".join(LINES).upper()}


def write(folder, made_from=1, stop_after=None):
    """Write all lines to two files, one by one; return behind how many it began."""
    outputs = {name: folder / name for name in WANTED}
    with growing(outputs, {"k": made_from}) as files:
        began = files.done
        for number in range(began, len(LINES)):
            files.append("rows", LINES[number])
            files.append("run", LINES[number].upper())
            if number == stop_after:
                raise KeyboardInterrupt
            files.keep(number + 1, {"sum": files.state.get("sum", 0) + number})
            files.state = {"sum": files.state.get("sum", 0) + number}
        assert files.state == {"sum": 10}
    return began, files.differing


def contents(folder):
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_an_interrupted_command_goes_on(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, stop_after=3)
    hidden = [".rows.unfinished", ".rows.unfinished.json", ".run.unfinished"]
    assert sorted(contents(tmp_path)) == hidden
    assert contents(tmp_path)[".rows.unfinished"] == "".join(LINES[:4])  # One more than is kept.
    assert write(tmp_path) == (3, [])
    assert contents(tmp_path) == WANTED


def test_nothing_is_left_where_nothing_was_done(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, stop_after=0)
    assert contents(tmp_path) == {}


def test_what_was_made_from_something_else_or_is_damaged_is_not_gone_on_with(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, stop_after=3)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, made_from=2, stop_after=3)
    part = tmp_path / ".run.unfinished"
    part.write_text(part.read_text().replace("0", "9"))
    assert write(tmp_path, made_from=2) == (0, [f"{part} was changed"])
    assert contents(tmp_path) == WANTED
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, made_from=2, stop_after=3)
    assert write(tmp_path, made_from=3) == (0, ["k was 2 and is now 3"])
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, stop_after=3)
    (tmp_path / ".rows.unfinished.json").write_text('{"made_from": {')
    assert write(tmp_path) == (0, [])
    assert contents(tmp_path) == WANTED


def test_two_commands_do_not_write_one_file(tmp_path):
    with growing({"rows": tmp_path / "rows"}, {}) as files:
        files.append("rows", "first\n")
        child = os.fork()
        if child == 0:
            try:
                write(tmp_path)
            except BlockingIOError as error:
                os._exit(0 if f"{tmp_path / 'rows'} is in use by process {os.getppid()}" in str(error) else 1)
            os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        files.keep(1, {})
    assert contents(tmp_path) == {"rows": "first\n"}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_full_disk_is_told_with_the_file_and_what_is_kept(tmp_path):
    outputs = {name: tmp_path / name for name in WANTED}
    full = os.open("/dev/full", os.O_WRONLY)

    def fill():
        with growing(outputs, {"k": 1}) as files:
            files.append("rows", LINES[0])
            files.append("run", LINES[0].upper())
            files.keep(1, {"sum": 0})
            os.dup2(full, files.files["run"]._file.fileno())
            files.append("run", LINES[1].upper())

    with pytest.raises(
        OSError, match="No space left on device; the first 1 are kept beside it, and the same"
    ) as error:
        fill()
    os.close(full)
    assert error.value.filename == str(tmp_path / "run")
    assert write(tmp_path) == (1, [])
    assert contents(tmp_path) == WANTED


def test_links_modes_and_streams(tmp_path):
    (tmp_path / "there").write_text("old")
    (tmp_path / "there").chmod(0o604)
    (tmp_path / "link").symlink_to("there")
    reading, writing = os.pipe()
    outputs = {"rows": tmp_path / "link", "run": Path(f"/dev/fd/{writing}")}
    with growing(outputs, {}) as files:
        files.append("rows", "a\n")
        files.append("run", "b\n")
        files.keep(1, {})
        assert files.record is None
    os.close(writing)
    with os.fdopen(reading) as stream:
        assert stream.read() == "b\n"
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "there").read_text() == "a\n"
    assert (tmp_path / "there").stat().st_mode & 0o777 == 0o604
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "there"]


def killed_at(number, folder):
    """Write in a process that kills itself at a line of the code, counted from 0; return whether it came so far."""
    child = os.fork()
    if child == 0:
        left = number
        files = {module.__file__ for module in (atomic_write, folders, unfinished)}

        def trace(frame, event, argument):
            nonlocal left
            if frame.f_code.co_filename not in files:
                return None
            left -= event == "line"
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return trace

        sys.settrace(trace)
        write(folder)
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("step", [23, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_at_any_line_nothing_half_written_is_taken_for_whole(tmp_path, step):
    number, began = 0, set()
    while True:
        folder = tmp_path / str(number)
        folder.mkdir()
        was_killed = killed_at(number, folder)
        there = contents(folder)
        assert all(there[name] == WANTED[name] for name in WANTED if name in there)
        assert was_killed or there == WANTED
        began.add(write(folder)[0])
        assert contents(folder) == WANTED
        if not was_killed:
            break
        number += step
    assert number > 200
    assert began >= {0, 1, 2, 3, 4, 5}
