"""What stands on standard error: lines of this package alone."""

import contextlib
import fcntl
import json
import logging
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest

from dro_trl.cli.quiet import NOISE, quieten
from tests.helpers.tiny_models import tiny_questions
from tests.helpers.training import save_start

OURS = (
    r"Asking .* on the CPU in \w+",
    r"selector: prompts are read without a chat template \(its tokenizer has none\)",
    r"(start|trained)(, retriever order)?: (selections|answers): .*it/s\].*",
    r".*\d+%\|.*\| \d+/\d+ \[.*",  # The bar of training.
    r"note: .*",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quiet")
    save_start(folder / "start", "gemma3")
    rows = tiny_questions(4, 5, 6, 4, 5, 6, 4, 5)
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    passages = [{key: p[key] for key in ("id", "title", "text")} for row in rows for p in row["candidates"]]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(passage) + "\n" for passage in passages))
    recipe = {
        **{"model_name_or_path": "start", "dataset_name": "train.jsonl", "output_dir": "out", "num_selected": 2},
        **{"num_candidates": 3, "num_selections": 2, "max_steps": 2, "logging_steps": 1, "save_strategy": "no"},
        **{"report_to": "none", "use_peft": True, "lora_r": 2, "lora_target_modules": ["all-linear"]},
    }
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    return folder


def run(folder, *words, **environment):
    command = [sys.executable, "-m", "dro_trl", *words]
    environment = {**os.environ, "COLUMNS": "80", **environment}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    foreign = [
        line
        for line in re.split(r"[\n\r]+", done.stderr)
        if line.strip() and not any(re.fullmatch(ours, line.strip()) for ours in OURS)
    ]
    assert foreign == []
    return done.stdout


def test_no_command_shows_what_other_libraries_say_of_themselves(folder):
    trained = run(folder, "train", "--config", "recipe.yaml")
    assert "Loading weights" not in trained
    assert [line.split()[0] for line in trained.splitlines()[1:5]] == ["step", "1/2", "2/2", "trained"]
    pair = ("--model_name_or_path", "out")
    assert "Scores" in run(folder, "evaluate", *pair, "--dataset_name", "train.jsonl", "--max_new_tokens", "2")
    run(folder, "index", "--corpus", "corpus.jsonl", "--index_dir", "index")
    assert "club" in run(folder, "ask", "Who founded the club of Lima?", *pair, "--index_dir", "index")


@pytest.mark.slow
def test_nor_does_the_quickstart(folder, tmp_path):
    """On a tiny model in the place where the converted Gemma is kept."""
    layers = {"num_hidden_layers": 10, "layer_types": ["sliding_attention", "full_attention"] * 5}
    save_start(tmp_path / "models" / "gemma-3-270m", "gemma3", **layers)
    shown = run(folder, "quickstart", "--fast", DRO_TRL_CACHE=str(tmp_path))
    assert "Loading weights" not in shown
    assert "The encyclopedia says" in shown


def test_only_the_noise_is_left_out():
    quieten()
    for name, beginning in NOISE.items():
        logger = logging.getLogger(name)
        said = [f"{beginning} and so on", "something of the run"]
        records = [logging.LogRecord(name, logging.WARNING, "", 0, text, (), None) for text in said]
        assert [bool(logger.filter(record)) for record in records] == [False, True]


@pytest.mark.parametrize(("rank", "said"), [(None, True), ("0", True), ("1", False)])
def test_of_several_processes_the_first_speaks(rank, said, monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    if rank:
        monkeypatch.setenv("RANK", rank)
    program = "from dro_trl.cli.quiet import *; quieten(); logging.getLogger('dro_trl.x').warning('so')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, "so" in done.stderr) == (0, said), done.stderr


def test_what_is_logged_stands_above_the_bar_and_ends_between_words():
    """In a real terminal of 80 columns, as a screen shows it."""
    program = (
        "from dro_trl.cli.quiet import *; from tqdm import tqdm; quieten(); bar = tqdm(total=2); bar.update(1)\n"
        "logging.getLogger('dro_trl.x').warning('many words ' * 12 + 'a-path/' * 20)\n"
        "bar.update(1); bar.close()"
    )
    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    done = subprocess.Popen([sys.executable, "-c", program], stdout=child, stderr=child)
    os.close(child)
    written = b""
    with contextlib.suppress(OSError):  # The end of a terminal.
        while part := os.read(parent, 65_536):
            written += part
    assert done.wait() == 0
    screen = [line.split("\r")[-1].rstrip() for line in written.decode().replace("\r\n", "\n").split("\n")]
    said = [line for line in screen if "words" in line or "a-path" in line]
    assert " ".join(said) == "many words " * 12 + "a-path/" * 20
    assert [len(line) <= 79 for line in said] == [True] * (len(said) - 1) + [False]
    assert all("it/s" not in line and "%" not in line for line in said)


def test_a_message_that_nobody_can_read_ends_nothing():
    """Standard error is a pipe whose reader is gone."""
    program = "from dro_trl.cli.quiet import *; quieten(); logging.getLogger('dro_trl.x').warning('so'); print('on')"
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=writer, text=True)
    os.close(writer)
    assert done.stdout == "on\n"
