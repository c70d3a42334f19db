"""W&B, trackio and MLflow: the table of selections, and runs of a study together, read back from what each keeps."""

import json

import pytest

from dro_trl.recipes.studies.plan import Study, plan_rows
from dro_trl.recipes.studies.tracking import tracking
from dro_trl.trainer.selection_table import selections_frame
from tests.helpers.tiny_models import tiny_questions
from tests.helpers.training import make_trainer

COLUMNS = ["step", "question", "selection", "passage_ids", "recall", "drawn", "reward", "weight"]


def train(folder, tracker, monkeypatch):
    """Train a row of a study as `dro-trl compare` does."""
    study = Study({"report_to": tracker}, {"DRO, mine": {}}, "dev.jsonl", str(folder / folder.name), (3,))
    options, variables = tracking(study, plan_rows(study)[0])
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    make_trainer(folder / "out", report_to=tracker, log_selections=True, **options).train()


def test_a_row_is_a_distinct_selection():
    row = {**tiny_questions(3)[0], "gold_ids": ["0-0", "0-1"]}
    bare = {**tiny_questions(3, 3)[1], "gold_ids": None}
    drawn = {"selections": [[2, 0], [1, 2], [2, 0]], "rewards": [-1.5, -0.25, -1.5], "weights": [0.5, 0.2, 0.3]}
    frame = selections_frame([{"row": row, **drawn}, {"row": bare, **drawn}], 7)
    assert list(frame) == COLUMNS
    first = [7, row["question"], "[3] > [1]", "0-2 > 0-0", 0.5, 2, -1.5, 0.8]
    second = [7, row["question"], "[2] > [3]", "0-1 > 0-2", 0.5, 1, -0.25, 0.2]
    assert frame.values.tolist()[:2] == [first, second]
    assert frame["recall"].isna().tolist() == [False, False, True, True]


def test_wandb_has_a_table_a_log(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb", reason="W&B is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    train(tmp_path, "wandb", monkeypatch)
    assert (wandb.run.name, wandb.run.group, wandb.run.job_type) == ("dro-mine-seed3", tmp_path.name, "DRO, mine")
    wandb.finish()
    tables = sorted(tmp_path.glob("wandb/offline-run-*/files/media/table/selections_*.json"))
    assert len(tables) == 2
    for table in tables:
        kept = json.loads(table.read_text())
        assert kept["columns"] == COLUMNS
        assert len({row[1] for row in kept["data"]}) == 2  # Questions of a batch.


def test_trackio_has_a_table_a_log(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))  # It is read when trackio is imported.
    pytest.importorskip("trackio", reason="trackio is not installed")
    from trackio.sqlite_storage import SQLiteStorage

    train(tmp_path, "trackio", monkeypatch)
    logs = SQLiteStorage.get_logs(tmp_path.name, "dro-mine-seed3")
    tables = [log["selections"]["_value"] for log in logs if "selections" in log]
    assert [[*table[0]] for table in tables] == [COLUMNS, COLUMNS]
    assert [table[0]["step"] for table in tables] == [1, 2]


def test_mlflow_has_a_table_a_log(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="MLflow is not installed")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)
    train(tmp_path, "mlflow", monkeypatch)
    [run] = mlflow.search_runs(experiment_names=[tmp_path.name], output_format="list")
    assert run.info.run_name == "dro-mine-seed3"
    assert {name: run.data.tags[name] for name in ("group", "method", "seed")} == {
        "group": tmp_path.name,
        "method": "DRO, mine",
        "seed": "3",
    }
    for step in (1, 2):
        frame = mlflow.load_table(f"selections/selections_{step:05d}.json", run_ids=[run.info.run_id])
        assert [*frame] == COLUMNS
        assert set(frame["step"]) == {step}
