"""Folders that a command writes: by one at a time, and not over what is somebody else's."""

import pytest
from typer.testing import CliRunner

from dro_trl.cli.app import app
from dro_trl.files.folders import locked, owned
from tests.helpers.training import make_trainer, save_start
from tests.recipes.test_training import write_recipe


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


COMMANDS = {
    "train": ["train", "--config", "RECIPE", "--output_dir", "OUT"],
    "evaluate": ["evaluate", "--model_name_or_path", "PAIR", "--dataset_name", "ROWS", "--output_dir", "OUT"],
    "quickstart": ["quickstart", "--fast", "--output_dir", "OUT"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_the_second_command_in_a_folder_is_told_who_is_there(trained_pair, tmp_path, command):
    save_start(tmp_path / "start")
    places = {
        "PAIR": trained_pair,
        "ROWS": trained_pair.parent / "rows.jsonl",
        "RECIPE": write_recipe(tmp_path),
        "OUT": tmp_path / "out",
    }
    with locked(tmp_path / "out"):
        result = run(*(places.get(word, word) for word in COMMANDS[command]))
    assert result.exit_code == 2
    assert f"error: {tmp_path / 'out'} is in use by process" in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_trainer_holds_its_folder_while_it_trains_and_leaves_no_lock(tmp_path):
    trainer = make_trainer(tmp_path / "out", model=save_start(tmp_path / "start"), max_steps=1)
    with locked(tmp_path / "out"), pytest.raises(BlockingIOError, match="out is in use by process"):
        trainer.train()
    with owned(tmp_path / "out"):
        trainer.train()
    trainer.train()
    assert not (tmp_path / "out" / ".lock").exists()


@pytest.mark.parametrize("name", ["README.md", "selector/notes.txt", "dangling"])
def test_training_writes_over_nothing_that_no_training_wrote(tmp_path, name):
    save_start(tmp_path / "start")
    out = tmp_path / "out"
    (out / name).parent.mkdir(parents=True)
    if name == "dangling":
        (out / "README.md").symlink_to("nowhere")
    else:
        (out / name).write_text("mine")
    result = run("train", "--config", write_recipe(tmp_path), "--output_dir", out)
    assert result.exit_code == 2
    assert f"{out} holds {'selector' if 'selector' in name else 'README.md'}, which would be replaced" in result.stderr
    assert len(list(out.iterdir())) == 1


@pytest.mark.parametrize("part", ["", "selector"])
@pytest.mark.parametrize("option", ["model_name_or_path", "generator_name_or_path"])
def test_a_model_is_not_replaced_by_what_is_learnt_from_it(tmp_path, option, part):
    save_start(tmp_path / "start")
    start = save_start(tmp_path / "pair" / part)
    arguments = ["--config", write_recipe(tmp_path), f"--{option}", start, "--output_dir", tmp_path / "pair"]
    result = run("train", *arguments)
    assert result.exit_code == 2
    assert f"is where the model is read from ({option} {start}), which would be replaced" in result.stderr
