"""`dro-trl compare` from the shell, each row in processes of its own."""

import json
import re
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from dro_trl.cli.app import app
from tests.helpers.tiny_models import tiny_questions
from tests.helpers.training import save_start, write_recipe


def test_a_study_from_the_shell_and_its_report_again(tmp_path):
    save_start(tmp_path / "start")
    (tmp_path / "eval.jsonl").write_text("".join(json.dumps(row) + "\n" for row in tiny_questions(4, 5, 6)))
    recipe = write_recipe(
        tmp_path, methods={"dro": {}}, seeds=[4], eval_dataset_name=str(tmp_path / "eval.jsonl"), max_new_tokens=2
    )
    command = [sys.executable, "-m", "dro_trl", "compare", "--config", recipe, "--learning_rate", "0.01"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=290)
    assert done.returncode == 0, done.stderr
    out = tmp_path / "out"
    assert f"[1/1] dro, seed 4: {out / 'rows' / 'dro-seed4'}" in done.stdout
    scores, _, verdicts = done.stdout.partition("Against the retriever's order, read by the untrained generator:\n")
    assert re.search(r"^ start, retriever order +0\.\d{3} ", scores, re.MULTILINE)
    assert re.search(r"^ dro +0\.\d{3} ", scores, re.MULTILINE)
    assert verdicts.startswith("- dro and start, retriever order are not told apart in recall@2:")
    assert f"Results: {out / 'report.json'}\nReport: {out / 'report.html'}, {out / 'report.md'}\n" in done.stdout
    report = json.loads((out / "report.json").read_text())
    assert report["command"] == f"dro-trl compare --config {recipe} --learning_rate 0.01"
    (row,) = report["rows"]
    assert (row["seed"], row["training"]["steps"]) == (4, 2)
    # A process that loads torch and nothing else of note.
    assert 1e8 < row["training"]["peak_memory_bytes"] < 5e9
    assert row["training"]["seconds"] > row["training"]["loop_seconds"] > 0
    (out / "report.html").unlink()
    result = CliRunner().invoke(app, [*command[3:], "--report_only"])
    assert result.exit_code == 0, result.output
    again = json.loads((out / "report.json").read_text())
    assert {**again, "command": None} == {**report, "command": None}
    assert (out / "report.html").stat().st_size > 50_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "error: --config names no file; write --config study.yaml"),
        (["--config", "RECIPE"], "methods is not set; add it to the study's recipe"),
        (["--config", "RECIPE", "--methods", "{dro: {}}", "--eval_dataset_name", "gone.jsonl"], "gone.jsonl"),
    ],
)
def test_mistakes_end_in_one_line(tmp_path, arguments, message):
    (tmp_path / "config.json").write_text("{}")
    recipe = write_recipe(tmp_path, model_name_or_path=str(tmp_path))
    result = CliRunner().invoke(app, ["compare", *(recipe if a == "RECIPE" else a for a in arguments)])
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
