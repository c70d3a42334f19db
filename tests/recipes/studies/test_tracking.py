"""What names a study's runs in a tracker: nothing without one, and what is said already stays."""

import json

import pytest

from dro_trl.recipes.studies.plan import Study, plan_rows
from dro_trl.recipes.studies.tracking import tracking

NAMES = ("WANDB_RUN_GROUP", "WANDB_JOB_TYPE", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_TAGS")


def tracked(**recipe):
    study = Study(recipe, {"DRO": {}, "GRPO, none": {"loss_type": "grpo"}}, "dev.jsonl", "runs/mine", (0, 1))
    return [tracking(study, row) for row in plan_rows(study)]


@pytest.fixture(autouse=True)
def nothing_is_set(monkeypatch):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("recipe", [{}, {"report_to": "none"}, {"report_to": None}])
def test_without_a_tracker_nothing_is_named(recipe):
    assert tracked(**recipe) == [({}, {})] * 4


def test_each_run_has_a_name_and_all_have_the_group():
    found = tracked(report_to=["wandb", "mlflow"])
    assert [options["run_name"] for options, _ in found] == [
        "dro-seed0",
        "grpo-none-seed0",
        "dro-seed1",
        "grpo-none-seed1",
    ]
    assert {options["project"] for options, _ in found} == {"mine"}
    assert [tuple(variables) for _, variables in found] == [NAMES] * 4
    assert {variables["WANDB_RUN_GROUP"] for _, variables in found} == {"mine"}
    assert json.loads(found[1][1]["MLFLOW_TAGS"]) == {"group": "mine", "method": "GRPO, none", "seed": "0"}


def test_what_is_said_already_stays(monkeypatch):
    monkeypatch.setenv("WANDB_RUN_GROUP", "ours")
    monkeypatch.setenv("MLFLOW_TAGS", '{"group": "ours", "release": "1"}')
    options, variables = tracked(report_to="wandb", run_name="night", project="p")[0]
    assert options == {"run_name": "night-dro-seed0"}
    assert "WANDB_RUN_GROUP" not in variables
    assert json.loads(variables["MLFLOW_TAGS"]) == {"group": "ours", "method": "DRO", "seed": "0", "release": "1"}
