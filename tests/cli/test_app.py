"""The frame of the command line: its version, and which errors become one line."""

import json
import os
import re
import subprocess
import sys

import pytest
from typer.testing import CliRunner

import dro_trl
from dro_trl.cli.app import app, is_expected, message_of
from dro_trl.metrics import token_f1


def run(*arguments, **environment):
    """Run `dro-trl` in a process of its own."""
    command = [sys.executable, "-m", "dro_trl", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | environment)


def error_of(function, *arguments):
    try:
        function(*arguments)
    except Exception as error:
        return error
    pytest.fail(f"{function.__name__}{arguments} raised nothing")


@pytest.mark.parametrize(
    ("function", "arguments", "expected"),
    [
        (token_f1, ("a", []), True),  # our ValueError
        (token_f1, ("a", "b"), False),  # a TypeError is a programmer's to mend, ours or the interpreter's
        (token_f1, ("a", 5), False),
        (json.loads, ("x",), False),  # a library's ValueError
        (int, ("x",), False),
        (dict.__getitem__, ({}, "x"), False),
        (open, ("/no/such/file",), True),
        (os.listdir, (__file__,), True),
    ],
)
def test_only_our_own_errors_and_those_of_files_are_expected(function, arguments, expected):
    assert is_expected(error_of(function, *arguments)) is expected


def test_a_file_is_named_first_and_an_empty_message_by_its_type():
    assert message_of(error_of(open, "/no/such/file")) == "/no/such/file: No such file or directory"
    assert message_of(RuntimeError()) == "RuntimeError"
    assert message_of(ValueError("row 3: [1] > [2]")) == "row 3: [1] > [2]"


def test_version():
    assert run("--version").stdout == f"dro-trl {dro_trl.__version__}\n"


def test_the_working_directory_can_be_imported_from(tmp_path):
    """As under `python -m`, for policies of one's own; `-P` is how a console script begins."""
    program = (
        "import atexit, os, sys; atexit.register(lambda: print(os.getcwd() in sys.path)); from dro_trl.cli import app"
    )
    command = [sys.executable, "-P", "-c", f"{program}; app.main()", "--version"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, text=True).stdout.splitlines()[-1] == "True"


def test_an_expected_error_is_one_line_and_exit_code_2(tmp_path):
    missing = tmp_path / "none.jsonl"
    done = run("index", "--corpus", missing, "--index_dir", tmp_path / "index")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert str(missing) in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(("options", "environment"), [(["--debug"], {}), ([], {"DRO_TRL_DEBUG": "1"})])
def test_debug_shows_the_traceback(tmp_path, options, environment):
    arguments = ["index", "--corpus", tmp_path / "none.jsonl", "--index_dir", tmp_path / "index"]
    done = run(*options, *arguments, **environment)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "FileNotFoundError" in done.stderr


def test_an_unknown_command_is_answered_with_the_nearest():
    done = run("retreive")
    assert done.returncode == 2
    assert "retrieve" in done.stderr


def test_alone_it_shows_its_help():
    shown = run()
    assert shown.returncode == 0
    assert "  quickstart  " in shown.stdout
    assert shown.stderr == ""


@pytest.mark.parametrize(
    ("words", "command", "named"),
    [
        ("--nope", "dro-trl", "--nope"),
        ("nope", "dro-trl", "'nope'"),
        ("evaluate", "dro-trl evaluate", "'--model_name_or_path'"),
        ("retrieve --corpus", "dro-trl retrieve", "'--corpus' requires an argument"),
        ("ask --k2 3", "dro-trl ask", "--k2"),
        ("gemma surplus --output_dir x", "dro-trl gemma", "(surplus)"),
    ],
)
def test_wrong_words_are_told_in_one_line(words, command, named):
    """With what to do; the wording between is Typer's."""
    told = CliRunner().invoke(app, words.split(), prog_name="dro-trl")
    assert (told.exit_code, told.stdout) == (2, "")
    assert re.fullmatch(f"error: {command}: .*{re.escape(named)}.*; see `{command} --help`\n", told.stderr), (
        told.stderr
    )


@pytest.mark.parametrize("words", ["index --threads x --corpus a --index_dir b", "prepare --format x"])
def test_a_wrong_value_is_told_with_its_option_in_one_line(words):
    told = CliRunner().invoke(app, words.split(), prog_name="dro-trl")
    assert told.exit_code == 2
    assert told.stderr.startswith(f"error: dro-trl {words.split()[0]}: Invalid value for '{words.split()[1]}': ")
    assert told.stderr.count("\n") == 1
    assert "Value error" not in told.stderr


ABORTS = """
import atexit, ctypes, threading, time
from concurrent.futures import ThreadPoolExecutor
from dro_trl.cli.app import main
libc = ctypes.CDLL(None)
libc.on_exit(libc.abort, None)
atexit.register(print, "cleared up")
pool = ThreadPoolExecutor(1)  # As libraries leave them open: its thread ends when Python tells it to.
pool.submit(int).result()
threading.Thread(target=lambda: (time.sleep(0.2), print("thread ended"))).start()
main()
"""
"""A process whose libraries abort when they are taken down."""


@pytest.mark.parametrize(
    ("words", "processes", "code"), [(["--version"], "2", 0), (["--version"], "1", -6), (["--nope"], "2", -6)]
)
def test_one_of_several_processes_that_did_its_work_does_not_fail_as_it_ends(words, processes, code):
    done = subprocess.run(
        [sys.executable, "-c", ABORTS, *words],
        capture_output=True,
        text=True,
        env=os.environ | {"WORLD_SIZE": processes, "RANK": "1"},
        timeout=60,
    )
    assert done.returncode == code
    assert done.stdout.endswith("thread ended\ncleared up\n")
