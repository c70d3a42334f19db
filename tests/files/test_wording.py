"""Numbers with their nouns, and the commands that say them."""

import json

import pytest
from typer.testing import CliRunner

from dro_trl.cli.app import app
from dro_trl.files.wording import counted


@pytest.mark.parametrize(
    ("number", "said"), [(0, "0 files"), (1, "1 file"), (2, "2 files"), (1000, "1,000 files"), (21, "21 files")]
)
def test_one_is_no_plural(number, said):
    assert counted(number, "file") == said
    assert counted(number, "file", "filez") == said.replace("files", "filez")


@pytest.mark.parametrize("rows", [1, 2])
def test_a_command_counts_what_it_wrote(tmp_path, rows):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"question": "Who?"}) * 1 + "\n" + '{"question": "When?"}\n' * (rows - 1))
    result = CliRunner().invoke(app, ["mix", "--input", str(path), "--output", str(tmp_path / "b.jsonl")])
    assert f": {rows} row{'s' if rows > 1 else ''} of 1 file, in random order" in result.stdout


def test_the_figures_of_retrieval_fit_a_line_of_80_columns(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    (tmp_path / "corpus.jsonl").write_text('{"id": "1", "title": "", "text": "Oslo"}\n')
    (tmp_path / "run").write_text("1 Q0 1 1 2.5 bm25\n")
    (tmp_path / "rows.jsonl").write_text(json.dumps({"question": "Where?", "gold_ids": ["1"]}) + "\n")
    options = {"corpus": "corpus.jsonl", "from_run": "run", "input": "rows.jsonl", "output": "out.jsonl"}
    words = [word for name, file in options.items() for word in (f"--{name}", str(tmp_path / file))]
    result = CliRunner().invoke(app, ["retrieve", *words, "-k", "1"])
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].endswith("out.jsonl: 1 question, 1 candidate")
    assert "Gold passages are known of 1 of 1 question." in lines
