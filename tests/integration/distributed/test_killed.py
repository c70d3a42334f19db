"""Runs that are killed outright, again and again, and taken up again end as the one that was not."""

import json
import random
import signal

import pytest
import yaml

from tests.helpers.launching import launch
from tests.helpers.recipe_program import PLACES
from tests.helpers.tiny_models import tiny_questions
from tests.helpers.training import save_start

pytestmark = pytest.mark.backends


RECIPE = {
    "num_selected": 2,
    "num_selections": 4,
    "policy": "dro_trl.AutoregressivePolicy",
    "per_device_train_batch_size": 1,
    "gradient_accumulation_steps": 2,
    "steps_per_estimation": 2,
    "num_iterations": 2,
    "learning_rate": 1e-2,
    "logging_steps": 2,
    "save_steps": 1,
    "save_total_limit": 3,
    "report_to": "none",
    "disable_tqdm": True,
}


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "train.jsonl").write_text(
        "".join(json.dumps(question) + "\n" for question in tiny_questions(4, 25, 6, 4, 25, 4, 5))
    )
    start = save_start(tmp_path / "start")
    path = tmp_path / "recipe.yaml"
    path.write_text(
        yaml.safe_dump({**RECIPE, "model_name_or_path": start, "dataset_name": str(tmp_path / "train.jsonl")})
    )
    return path


def train(backend, recipe, name, *options, die_at=""):
    """Train and return the folder, or None where the run was killed."""
    folder = recipe.parent / name
    code, output = launch(
        backend,
        "tests.helpers.recipe_program",
        *("--config", str(recipe), "--output_dir", str(folder), *options),
        environment={"DIE_AT": die_at},
        check=not die_at,
    )
    if die_at and code == -signal.SIGKILL:
        return None
    assert code == 0, output[-5000:]
    return folder


def assert_same_run(one, other):
    for model in ("selector", "generator"):
        weights = [(folder / model / "model.safetensors").read_bytes() for folder in (one, other)]
        assert weights[0] == weights[1], model
    logs = [json.loads((folder / "trainer_state.json").read_text())["log_history"] for folder in (one, other)]
    logs = [[record for record in log if "train_runtime" not in record] for log in logs]
    assert logs[0] == logs[1]
    assert len(logs[0]) >= 3


def kill_and_resume(backend, recipe, moments, max_steps):
    """Kill one run at each of the moments, resuming it in between, and compare its end with that of another."""
    steps = f"--max_steps={max_steps}"
    whole = train(backend, recipe, "whole", steps)
    kills = 0
    for moment in moments:
        if train(backend, recipe, "killed", steps, "--resume", die_at=moment) is None:
            kills += 1
    assert_same_run(whole, train(backend, recipe, "killed", steps, "--resume"))
    return kills


@pytest.mark.timeout(600)
@pytest.mark.parametrize("backend", [pytest.param("cpu_2proc", marks=pytest.mark.slow), "zero3"])
def test_killed_while_saving_and_in_the_backward_pass(recipe, backend):
    moments = ["saving 4 0.002", "backward 5 0"]
    assert kill_and_resume(backend, recipe, moments, max_steps=8) == len(moments)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("backend", ["one", "cpu_2proc", "fsdp2", "zero2", "zero3"])
def test_killed_twenty_times(recipe, backend):
    chance = random.Random(backend)
    moments = [
        f"{chance.choice(list(PLACES))} {chance.randint(1, 3)} {chance.choice([0, chance.uniform(0, 0.1)])}"
        for _ in range(20)
    ]
    kills = kill_and_resume(backend, recipe, moments, max_steps=100)
    print(f"{backend}: {kills} kills at {moments}")
    assert kills == len(moments)
