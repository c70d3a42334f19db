"""`dro-trl train`, alone and under `accelerate launch`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file
from typer.testing import CliRunner

from dro_trl.cli.app import app
from tests.helpers.training import changed, save_start
from tests.recipes.test_training import write_recipe

ROOT = Path(__file__).resolve().parents[2]


def test_a_recipe_from_the_shell_alone_and_under_accelerate(tmp_path):
    save_start(tmp_path / "start")
    recipe = write_recipe(tmp_path, num_iterations=2, learning_rate=0.01)
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1", "-m", "dro_trl"]
    for name, command in (("alone", [sys.executable, "-m", "dro_trl"]), ("launched", launch)):
        out = tmp_path / name
        done = subprocess.run(
            [*command, "train", "--config", recipe, "--output_dir", str(out), "--seed", "3"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=280,
        )
        assert done.returncode == 0, done.stderr
        assert f"Models: {out}\nResults: {out / 'train_results.json'}\nPlots: {out / 'training.png'}" in done.stdout
        results = json.loads((out / "train_results.json").read_text())
        assert (results["steps"], results["seed"]) == (4, 3)
        assert results["reward"] < 0 < results["seconds"]
    for part in ("selector", "generator"):
        folders = (tmp_path / "start", tmp_path / "alone" / part, tmp_path / "launched" / part)
        start, alone, launched = (load_file(folder / "model.safetensors") for folder in folders)
        assert changed(start, alone) != set()
        assert changed(alone, launched) == set()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "RECIPE", "--num_selectd", "2"], "unknown key 'num_selectd'; did you mean 'num_selected'?"),
        (["--config", "nowhere.yaml"], "error: nowhere.yaml: No such file or directory"),
        (["--config"], "error: --config names no file; write --config recipe.yaml"),
        (["RECIPE"], "belongs to no option; name a recipe with --config"),
        ([], "error: dataset_name is not set; add it to the recipe, or pass --dataset_name"),
    ],
)
def test_mistakes_end_in_one_line(tmp_path, arguments, message):
    recipe = write_recipe(tmp_path)
    result = CliRunner().invoke(app, ["train", *(recipe if a == "RECIPE" else a for a in arguments)])
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
