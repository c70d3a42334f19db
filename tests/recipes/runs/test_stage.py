"""A stage's own process: what it is given, what is written of it, and what is imported there."""

from pathlib import Path

import pytest

from dro_trl.files.folders import locked
from dro_trl.recipes.runs.digests import Digests
from dro_trl.recipes.runs.stage import Stage

ROOT = Path(__file__).resolve().parents[3]
SHADOW = "raise RuntimeError('a file of the working directory was imported in the place of a library')\n"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A function that runs a stage, in processes, in a working directory whose files are called as libraries are."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for folder in (tmp_path, tmp_path / "recipes"):
        folder.mkdir(exist_ok=True)
        for name in ("typer", "yaml", "accelerate", "socket"):
            (folder / f"{name}.py").write_text(SHADOW)

    def run_stage(**given):
        stage = Stage("train", "train", tmp_path / "out" / "5-train", python_path=["recipes"], **given)
        digests = Digests(tmp_path / "out" / ".digests.json")
        with locked(tmp_path / "out") as lock:
            record = stage.run(stage.inputs(digests), digests, lock)
        return stage, record, stage.inputs(digests), digests

    return run_stage


def test_no_file_of_a_stage_holds_a_secret(run, tmp_path):
    recipe = {"hub_token": "s3cr3t", "env": {"A_SERVICE": "s3cr3t", "OMP_NUM_THREADS": 1}, "learning_rate": 0.1}
    commands = [["estimate", "--help", "--hub_token", "s3cr3t"], ["--version"]]
    stage, record, inputs, digests = run(recipe=recipe, options={"train": recipe}, commands=commands)
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"recipe.yaml", "stage.json"}
    assert [path for path in files if b"s3cr3t" in path.read_bytes()] == []
    assert record["commands"][0] == "PYTHONPATH=recipes dro-trl estimate --help --hub_token '<hidden>'"
    assert stage.reason_to_run(inputs, digests) is None
    path = stage.folder / "stage.json"  # As an earlier version wrote it.
    path.write_text(path.read_text().replace("<hidden>", "s3cr3t"))
    assert stage.reason_to_run(inputs, digests) is None
    other = {"train": {**recipe, "learning_rate": 0.2}}
    changed = Stage("train", "train", stage.folder, recipe=recipe, options=other)
    assert changed.reason_to_run(changed.inputs(digests), digests) == "train.learning_rate was 0.1 and is now 0.2"


@pytest.mark.parametrize("launch", [None, ["--num_processes", "1", "--cpu"]], ids=["python", "accelerate"])
def test_libraries_come_before_files_of_ones_own(run, launch, capfd):
    run(commands=[["--version"]], launch=launch)
    assert "dro-trl " in capfd.readouterr().out
