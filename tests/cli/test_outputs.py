"""What commands write, and what they leave alone."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dro_trl.cli.app import app
from dro_trl.files.writing import write_json, write_jsonl

ROWS = [{"id": "1", "question": "radium", "answers": ["Marie"], "golden_answers": ["Marie"], "gold_ids": ["a"]}]


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "rows.jsonl", ROWS)
    return tmp_path


@pytest.mark.parametrize("output", ["rows.jsonl", "link.jsonl", "../{name}/rows.jsonl"])
@pytest.mark.parametrize(
    "command",
    [
        ["prepare", "--format", "flashrag", "--input", "rows.jsonl"],
        ["prepare", "--format", "flashrag", "--input", "rows2.jsonl", "--corpus", "rows.jsonl"],
        ["mix", "--input", "rows2.jsonl", "--input", "rows.jsonl"],
        ["retrieve", "--input", "rows.jsonl", "--index_dir", "index"],
        ["retrieve", "--input", "rows2.jsonl", "--corpus", "rows.jsonl", "--from_run", "rows2.jsonl"],
        ["retrieve", "--input", "rows2.jsonl", "--index_dir", "index", "--from_run", "rows.jsonl"],
    ],
    ids=" ".join,
)
def test_what_is_read_is_never_replaced(here, command, output):
    write_jsonl(here / "rows2.jsonl", ROWS)
    (here / "link.jsonl").symlink_to("rows.jsonl")
    (here / "index").mkdir()
    (here / "index" / "segments_1").touch()
    before = (here / "rows.jsonl").read_bytes()
    result = run(*command, "--output", output.format(name=here.name))
    assert result.exit_code == 2
    assert "would replace what is read (--" in result.stderr
    assert (here / "rows.jsonl").read_bytes() == before
    assert len(list(here.iterdir())) == 4


@pytest.mark.parametrize("output", ["queries.jsonl", "qrels/test.tsv", "corpus.jsonl"])
@pytest.mark.parametrize("given", ["beir", "beir/qrels/test.tsv"])
def test_no_file_of_a_folder_that_is_read_is_replaced(here, output, given):
    (here / "beir" / "qrels").mkdir(parents=True)
    write_jsonl(here / "beir" / "queries.jsonl", [{"_id": "q", "text": "radium"}])
    write_jsonl(here / "beir" / "corpus.jsonl", [{"_id": "d", "title": "", "text": "radium"}])
    (here / "beir" / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\td\t1\n")
    options = ["prepare", "--format", "beir", "--input", given]
    for _ in range(2):  # A new file there is none of those.
        assert run(*options, "--output", "beir/rows.jsonl").exit_code == 0
    result = run(*options, "--output", f"beir/{output}")
    assert result.exit_code == 2
    assert "would replace what is read" in result.stderr


def test_figures_beside_the_output_replace_no_input(here):
    (here / "rows.jsonl").rename(here / "out.report.json")
    result = run("prepare", "--format", "flashrag", "--input", "out.report.json", "--output", "out.jsonl")
    assert result.exit_code == 2
    assert "the figures of --output out.report.json would replace what is read" in result.stderr


@pytest.mark.parametrize("command", ["prepare --dataset flashrag", "mix"])
def test_rows_alone_go_to_standard_output(here, command):
    arguments = [*command.split(), "--input", "rows.jsonl", "--output", "/dev/stdout"]
    done = subprocess.run([sys.executable, "-m", "dro_trl", *arguments], capture_output=True, text=True, check=True)
    assert [json.loads(line)["question"] for line in done.stdout.splitlines()] == ["radium"]
    assert "wrote /dev/stdout" in done.stderr
    assert not list(Path("/dev").glob("*.json"))
    assert [path.name for path in here.iterdir()] == ["rows.jsonl"]


def test_an_evaluation_replaces_no_results_of_something_else(here):
    from dro_trl.cli.evaluate import check_results

    check_results(here)
    write_json(here / "results.json", {"systems": {}})
    (here / "comparison.png").touch()
    check_results(here)
    write_json(here / "results.json", {"accuracy": 1})
    with pytest.raises(FileExistsError, match=r"holds results\.json, which would be replaced"):
        check_results(here)
    (here / "results.json").write_text("")
    with pytest.raises(ValueError, match=r"results\.json is cut off or damaged .*; delete it"):
        check_results(here)


def test_quickstart_leaves_a_folder_of_something_else_alone(here):
    (here / "data").mkdir()
    (here / "data" / "train.jsonl").write_text("mine")
    result = run("quickstart", "--fast", "--output_dir", ".")
    assert result.exit_code == 2
    assert "holds data, which would be replaced" in result.stderr
    assert [path.name for path in (here / "data").iterdir()] == ["train.jsonl"]
