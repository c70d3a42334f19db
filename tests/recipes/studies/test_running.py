"""Rows: run once, recognised, resumed, refused; and the processes that they run in."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file

from dro_trl.files.folders import locked
from dro_trl.recipes.arguments import parse_recipe
from dro_trl.recipes.file import read_recipe
from dro_trl.recipes.processes import run_command
from dro_trl.recipes.studies import running
from dro_trl.recipes.studies.parsing import parse_study
from dro_trl.recipes.studies.plan import plan_rows
from dro_trl.recipes.studies.report import load_questions, write_report
from dro_trl.recipes.studies.running import finished_rows, run_study
from tests.helpers.tiny_models import tiny_questions
from tests.helpers.training import changed, save_start, write_recipe

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    return save_start(tmp_path_factory.mktemp("start"))


@pytest.fixture
def study_of(tmp_path, start):
    """A function that returns a study of tiny rows, two steps each."""

    def make(**lines):
        (tmp_path / "eval.jsonl").write_text("".join(json.dumps(row) + "\n" for row in tiny_questions(4, 5, 6)))
        given = {
            "model_name_or_path": start,
            "methods": {"dro": {}, "grpo": {"loss_type": "grpo"}},
            "eval_dataset_name": str(tmp_path / "eval.jsonl"),
            "max_new_tokens": 2,
            "learning_rate": 0.01,
            "disable_tqdm": True,
            **lines,
        }
        return parse_study(["--config", write_recipe(tmp_path, **given)])

    return make


def test_every_row_is_trained_and_evaluated_once(study_of, commands):
    study = study_of(num_iterations=2)
    rows = list(run_study(study))
    assert [(row["method"], row["seed"]) for row in rows] == [("dro", 0), ("grpo", 0)]
    assert [command[0] for command in commands] == ["train", "evaluate", "train", "evaluate"]
    # The untrained pair and the retriever's order are the same for all rows: only the first evaluates them.
    assert [list(row["predictions"]) for row in rows] == [
        ["start, retriever order", "start", "trained, retriever order", "trained"],
        ["trained, retriever order", "trained"],
    ]
    for row, planned in zip(rows, plan_rows(study), strict=True):
        # Four questions in batches of two, each sample used twice: four steps on 4 questions x 3 selections.
        counted = {name: row["training"][name] for name in ("steps", "questions_drawn", "selections_drawn", "resumed")}
        assert counted == {"steps": 4, "questions_drawn": 4, "selections_drawn": 12, "resumed": False}
        assert [record["step"] for record in row["log_history"] if "reward" in record] == [1, 2, 3, 4]
        assert row["training"]["place"] == "on the CPU in float32"
        assert row["training"]["tokens_read"] == row["log_history"][-2]["num_tokens"] > 0
        assert len(row["predictions"]["trained"]) == 3
        assert read_recipe(planned.folder / "recipe.yaml") == planned.recipe
        assert json.loads((planned.folder / "row.json").read_text()) == row
    assert rows[0]["log_history"] != rows[1]["log_history"]
    assert list(run_study(study)) == rows == list(finished_rows(study))
    assert len(commands) == 4


def test_a_row_that_was_interrupted_goes_on_to_the_same_end(study_of, commands, tmp_path, monkeypatch):
    lines = {"save_strategy": "steps", "save_steps": 1, "methods": {"dro": {}}}
    (whole,) = run_study(study_of(output_dir=str(tmp_path / "whole"), **lines))
    study, run = study_of(**lines), running.run_command
    model = plan_rows(study)[0].folder / "model"

    def interrupted(arguments, log, lock):
        """Leave what a run that is killed after its first checkpoint leaves."""
        run(arguments, log, lock)
        for entry in model.iterdir():
            if entry.name != "checkpoint-1":
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        raise KeyboardInterrupt

    monkeypatch.setattr(running, "run_command", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_study(study)
    with pytest.raises(ValueError, match="holds no row.json: the first row, which every report needs, is not run"):
        finished_rows(study)
    monkeypatch.setattr(running, "run_command", run)
    (row,) = run_study(study)
    assert (whole["training"]["resumed"], row["training"]["resumed"]) == (False, True)
    assert row["predictions"] == whole["predictions"]
    expected, found = (
        load_file(folder / "selector" / "model.safetensors")
        for folder in (tmp_path / "whole" / "rows" / "dro-seed0" / "model", model)
    )
    assert changed(expected, found) == set()


def test_a_row_is_trained_once_when_its_evaluation_fails(study_of, commands, monkeypatch):
    study, run = study_of(methods={"dro": {}}), running.run_command

    def failing(arguments, log, lock):
        if arguments[0] == "evaluate":
            raise RuntimeError("no memory left")
        return run(arguments, log, lock)

    monkeypatch.setattr(running, "run_command", failing)
    with pytest.raises(RuntimeError, match="no memory left"):
        run_study(study)
    monkeypatch.setattr(running, "run_command", run)
    run_study(study)
    assert [command[0] for command in commands] == ["train", "evaluate"]


def test_a_row_of_another_recipe_or_other_data_is_refused(study_of, commands, tmp_path):
    run_study(study_of(methods={"dro": {}}))
    for lines, message in (
        (
            {"learning_rate": 0.5},
            "dro-seed0 was made under another recipe: recipe.learning_rate was 0.01 and is now 0.5",
        ),
        ({"methods": {"dro": {"kl_coef": 0.1}}}, "recipe.kl_coef was 'not set' and is now 0.1. Set it back"),
        ({"max_new_tokens": 9}, "evaluation.max_new_tokens was 2 and is now 9"),
    ):
        with pytest.raises(ValueError, match=message):
            run_study(study_of(**{"methods": {"dro": {}}, **lines}))
    study = study_of(methods={"dro": {}})
    (tmp_path / "eval.jsonl").write_text(json.dumps(tiny_questions(4)[0]) + "\n")
    with pytest.raises(ValueError, match="data.eval_dataset_name was"):
        run_study(study)
    assert len(commands) == 2


def test_more_methods_and_seeds_may_join_and_batches_may_change(study_of, commands):
    run_study(study_of(methods={"dro": {}}))
    rows = list(run_study(study_of(seeds=[0, 1], per_device_eval_batch_size=2)))
    assert [(row["method"], row["seed"]) for row in rows] == [("dro", 0), ("grpo", 0), ("dro", 1), ("grpo", 1)]
    assert len(commands) == 8


@pytest.fixture
def lock(tmp_path):
    with locked(tmp_path) as held:
        yield held


def test_a_process_of_its_own_is_measured(tmp_path, lock):
    used = run_command(["--version"], tmp_path / "log", lock)
    assert (tmp_path / "log").read_text().startswith("dro-trl ")
    assert 0 < used["seconds"] < 250
    of_parent = psutil.Process().memory_info().rss  # Which a process counts as its own until it becomes another.
    assert 5e6 < used["peak_memory_bytes"] < 5e9 + of_parent


def test_a_process_that_fails_is_told_with_the_end_of_its_output(tmp_path, lock):
    with pytest.raises(
        RuntimeError, match=r"(?s)dro-trl trian ended with exit code 2; .* ends with:.*No such command"
    ):
        run_command(["trian"], tmp_path / "log", lock)


def trainings(process):
    """Return the trainings that a process has started and that are there."""
    found = []
    for child in psutil.Process(process.pid).children():
        with contextlib.suppress(psutil.NoSuchProcess):  # It may have started others, which are gone already.
            found += [child] if "train" in child.cmdline() else []
    return found


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_study_that_is_ended_takes_its_training_along_or_leaves_its_row_locked(study_of, tmp_path, how):
    study = study_of(methods={"dro": {}}, num_train_epochs=10_000)  # Not done before it is ended.
    [row] = plan_rows(study)
    command = [sys.executable, "-m", "dro_trl", "compare", "--config", str(tmp_path / "recipe.yaml")]
    process = subprocess.Popen(command, cwd=tmp_path)
    deadline = time.monotonic() + 200
    while not (children := trainings(process)):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(how)
    process.wait()
    if how == signal.SIGTERM:
        assert psutil.wait_procs(children, timeout=20)[1] == []
    else:
        with pytest.raises(BlockingIOError, match=r"dro-seed0 is in use by process .*, or one that it started"):
            run_study(study)
        for child in children:
            child.kill()
        psutil.wait_procs(children, timeout=20)
    with locked(row.folder):
        pass


def test_a_finished_row_that_is_damaged_is_told_before_another_is_run(study_of, commands):
    study = study_of()
    run_study(study_of(methods={"dro": {}}))
    damaged = plan_rows(study)[0].folder / "row.json"
    damaged.write_text(damaged.read_text()[:-9])
    with pytest.raises(ValueError, match=re.escape(str(damaged)) + ".*delete the folder of its row"):
        run_study(study)
    assert len(commands) == 2


def test_no_file_of_a_study_holds_a_secret(study_of, commands, tmp_path, monkeypatch):
    """All that is written, in the row's own processes too, which are given the secrets all the same."""
    for name in ("DRO_TRL_SECRETS", "A_SERVICE", "DRO_TRL_TEST_TOKEN"):
        monkeypatch.setenv(name, "[]")
    study = study_of(
        hub_token="s3cr3t-hub",
        model_init_kwargs={"token": "s3cr3t-init"},
        env={"A_SERVICE": "s3cr3t-env", "DRO_TRL_TEST_TOKEN": "s3cr3t-env", "OMP_NUM_THREADS": "1"},
        methods={"dro": {}, "other": {"hub_token": "s3cr3t-other"}},
        save_strategy="steps",
        save_steps=1,
    )
    given = []
    run = running.run_command

    def recorded(arguments, log, lock):
        if arguments[0] == "train":
            given.append(parse_recipe(list(arguments[1:]))[1])
        return run(arguments, log, lock)

    monkeypatch.setattr(running, "run_command", recorded)
    rows = list(run_study(study))
    assert [(args.hub_token, args.model_init_kwargs["token"]) for args in given] == [
        ("s3cr3t-hub", "s3cr3t-init"),
        ("s3cr3t-other", "s3cr3t-init"),
    ]
    assert (os.environ["A_SERVICE"], os.environ["DRO_TRL_TEST_TOKEN"]) == ("s3cr3t-env", "s3cr3t-env")
    write_report(study, rows, load_questions(study), "dro-trl compare")
    files = [path for path in Path(study.output_dir).rglob("*") if path.is_file()]
    names = {path.name for path in files}
    assert names >= {
        "recipe.yaml",
        "plan.json",
        "row.json",
        "report.json",
        "report.md",
        "report.html",
        "training_run.json",
    }
    assert names >= {"README.md", "train.log", "trainer_state.json", "dro_config.json", "results.json"}
    assert "training_run.json" in names
    assert [path for path in files if b"s3cr3t" in path.read_bytes()] == []
    assert list(run_study(study)) == rows  # Each row is known again.
    plan = plan_rows(study)[0].folder / "plan.json"  # As an earlier version wrote it.
    plan.write_text(plan.read_text().replace("<hidden>", "s3cr3t"))
    assert list(run_study(study)) == rows


SHADOW = "raise RuntimeError('a file of the working directory was imported in a library's place')\n"
REWARD = (
    "import shadowed_nowhere\n\ndef first(selections, **kwargs):\n    return [float(-sum(z)) for z in selections]\n"
)


def test_files_of_the_working_directory_are_imported_in_no_librarys_place(study_of, tmp_path):
    """Real processes: a study whose reward stands in the working directory, beside files called as libraries are."""
    for name in ("typer", "yaml", "torch", "numpy", "socket", "json"):
        (tmp_path / f"{name}.py").write_text(SHADOW)
    (tmp_path / "shadowed_nowhere.py").write_text("")
    (tmp_path / "my_own_reward.py").write_text(REWARD)
    study_of(methods={"dro": {}}, reward_funcs=["my_own_reward.first"], max_steps=1)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": ""}
    script = (
        "import sys; sys.argv[0] = 'dro-trl'; from dro_trl.cli.app import main; main()"  # As the entry point does.
    )
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "dro-trl").write_text(script)
    command = [sys.executable, str(tmp_path / "bin" / "dro-trl"), "compare", "--config", "recipe.yaml"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.rglob("report.html"))


def test_python_m_looks_in_the_working_directory_last(tmp_path):
    (tmp_path / "typer.py").write_text(SHADOW)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": ""}
    command = [sys.executable, "-m", "dro_trl", "--version"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stdout.startswith("dro-trl ")) == (0, True), done.stderr
