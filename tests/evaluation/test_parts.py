"""Parts that are kept are not found again; an evaluation that is another one begins anew."""

import json
import logging
import shutil
from pathlib import Path

import pytest
from accelerate import PartialState

from dro_trl.evaluation import parts as parts_module
from dro_trl.evaluation.parts import describe_evaluation, discard, go_on
from tests.helpers.tiny_models import tiny_questions


def Parts(num_rows, batch_size, folder):
    return parts_module.Parts(num_rows, batch_size, PartialState(cpu=True), folder)


class Squares:
    """Finds the square of each row's number, and remembers the parts it was asked for."""

    def __init__(self, until=1000):
        self.asked = []
        self.until = until

    def __call__(self, part):
        if part.start >= self.until:
            raise KeyboardInterrupt
        self.asked.append((part.start, part.stop))
        return [n * n for n in range(part.start, part.stop)]


@pytest.mark.parametrize("kept", [True, False])
def test_what_is_kept_is_not_found_again(tmp_path, kept):
    folder = tmp_path / "progress" if kept else None
    first, second = Squares(until=16), Squares()
    with pytest.raises(KeyboardInterrupt):
        Parts(21, 2, folder).map("a: selections", first)
    assert first.asked == [(0, 8), (8, 16)]
    parts = Parts(21, 2, folder)
    assert parts.map("a: selections", second) == [n * n for n in range(21)]
    assert second.asked == ([(16, 21)] if kept else [(0, 8), (8, 16), (16, 21)])
    other = Squares()
    assert parts.map("a: answers", other) == parts.map("b: selections", other)
    assert len(other.asked) == 6  # Under another name nothing is kept yet.


def test_a_line_that_a_killed_process_left_is_found_again_and_a_damaged_one_named(tmp_path):
    expected = Parts(21, 2, tmp_path).map("a: selections", Squares())
    (path,) = tmp_path.glob("*.parts.jsonl")
    whole = path.read_bytes()
    path.write_bytes(whole[:-3])
    squares = Squares()
    assert Parts(21, 2, tmp_path).map("a: selections", squares) == expected
    assert squares.asked == [(16, 21)]
    assert path.read_bytes() == whole
    path.write_bytes(whole.replace(b"[8,", b"{8,"))
    with pytest.raises(ValueError, match=rf"{path.name}, line 2 is damaged .*; give --no_resume"):
        Parts(21, 2, tmp_path).map("a: selections", Squares())


def test_many_parts_are_lines_of_one_file_that_is_opened_once(tmp_path, monkeypatch):
    opened, path_open = [], Path.open

    def noted(path, *args, **kwargs):
        opened.append(path.name)
        return path_open(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", noted)
    expected = Parts(2000, 1, tmp_path).map("a", Squares(until=2000))
    (path,) = tmp_path.iterdir()
    assert opened == [path.name]
    assert len(path.read_text().splitlines()) == 500
    again = Squares()
    assert Parts(2000, 1, tmp_path).map("a", again) == expected
    assert again.asked == []


def test_a_process_that_is_not_the_first_takes_no_line_away(tmp_path, monkeypatch):
    """One that comes late would see a line that another is writing."""
    Parts(21, 2, tmp_path).map("a: selections", Squares())
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-3])
    torn = path.read_bytes()
    monkeypatch.setattr(PartialState, "is_main_process", False)
    Parts(21, 2, tmp_path).map("a: selections", Squares())
    assert path.read_bytes().startswith(torn)


@pytest.fixture
def pair(tmp_path):
    """A folder like that of a trained pair, as far as digests go."""
    for name in ("selector", "generator", "start"):
        (tmp_path / "pair" / name).mkdir(parents=True)
        (tmp_path / "pair" / name / "model.safetensors").write_text(name)
    start = {"selector": str(tmp_path / "pair" / "start"), "generator": "some/hub-name"}
    unset = dict.fromkeys(("policy", "policy_kwargs", "prompt_texts", "max_passage_tokens"))
    config = {**unset, "num_selected": 2, "num_candidates": 20, "start": start}
    (tmp_path / "pair" / "dro_config.json").write_text(json.dumps(config))
    return tmp_path / "pair"


CHANGES = {
    "questions": lambda pair: (tiny_questions(4, 6), {"seed": 0}),
    "seed": lambda pair: (tiny_questions(4, 5), {"seed": 1}),
    "model": lambda pair: (pair / "generator" / "model.safetensors").write_text("other") and None,
    "start": lambda pair: (pair / "start" / "model.safetensors").write_text("other") and None,
}


@pytest.mark.parametrize("changed", CHANGES)
def test_another_evaluation_begins_anew_and_says_why(tmp_path, pair, caplog, changed):
    caplog.set_level(logging.WARNING)
    folder = tmp_path / "progress"
    given = tiny_questions(4, 5), {"seed": 0}
    go_on(folder, describe_evaluation(pair, given[0], **given[1]))
    assert not caplog.messages
    Parts(2, 1, folder).map("a", Squares())
    shutil.copytree(pair, tmp_path / "moved")
    go_on(folder, describe_evaluation(tmp_path / "moved", given[0], **given[1]))
    assert caplog.messages == [f"going on from 1 part that {folder} holds"]
    rows, options = CHANGES[changed](pair) or given
    go_on(folder, describe_evaluation(pair, rows, **options))
    assert f"{folder} holds parts of another evaluation; beginning anew, since {changed} was " in caplog.messages[1]
    assert ";" not in caplog.messages[1].partition("since")[2]
    again = Squares()
    Parts(2, 1, folder).map("a", again)
    assert again.asked == [(0, 2)]


def test_only_what_was_kept_is_deleted(tmp_path):
    (tmp_path / "notes.json").write_text("{}")
    Parts(2, 1, tmp_path).map("a", Squares())
    (tmp_path / ".a.000000.part.json.x1").write_text("[")  # Of a process that was killed as it wrote.
    discard(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.json"]
    discard(tmp_path / "nothing")
