"""`dro-trl warmup`: mistakes end in one line."""

import pytest
from typer.testing import CliRunner

from dro_trl.cli.app import app
from tests.helpers.training import write_recipe


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["selector", "--config", "RECIPE", "--teachr", "gold"], "unknown key 'teachr'; did you mean 'teacher'?"),
        (
            ["generator", "--config", "RECIPE", "--teacher=run"],
            "teacher='run' and teacher_run=None do not go together",
        ),
        (["generator", "--config", "nowhere.yaml"], "error: nowhere.yaml: No such file or directory"),
        (["selector"], "error: dataset_name is not set; add it to the recipe, or pass --dataset_name"),
        (
            ["--config", "quickstart"],
            "'--config' is not one of 'selector', 'generator'; say first which model to warm",
        ),
        (["quickstart"], "'quickstart' is not one of 'selector', 'generator'; say first which model to warm"),
        ([], "Missing argument 'selector|generator'"),
        (["reader", "--config", "RECIPE"], "'reader' is not one of 'selector', 'generator'"),
    ],
)
def test_mistakes_end_in_one_line(tmp_path, arguments, message):
    for name in ("config.json", "rows.jsonl"):
        (tmp_path / name).write_text("{}")
    there = {"model_name_or_path": str(tmp_path), "dataset_name": str(tmp_path / "rows.jsonl")}
    recipe = write_recipe(tmp_path, num_selections=None, **there)
    result = CliRunner().invoke(app, ["warmup", *(recipe if a == "RECIPE" else a for a in arguments)])
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.replace("│", "").split())
