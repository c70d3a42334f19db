"""Training from streams and lists: the same run as on the rows that are read, and resumed as one."""

import json

import pandas as pd
import pytest
from datasets import load_dataset

from dro_trl.trainer import dataset
from dro_trl.trainer.dataset import rows_of_run
from dro_trl.trainer.resuming import last_checkpoint
from tests.helpers.tiny_models import tiny_questions
from tests.helpers.training import changed, logged, make_trainer, options, weights_of

ROWS = [dict(row) for row in tiny_questions(4, 5, 6, 4, 5, 4, 6, 5)]


@pytest.fixture
def streamed(tmp_path):
    """A file as it is streamed from the hub, row by row."""
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return lambda: load_dataset("json", data_files=str(path), split="train", streaming=True)


@pytest.mark.parametrize("form", ["stream", "list", "frame"])
def test_it_is_the_run_on_the_rows_that_are_read(tmp_path, streamed, form):
    """Two steps of two questions read four rows; evaluation and other columns go with a list as well."""
    given = {"stream": streamed, "list": lambda: ROWS[:4], "frame": lambda: pd.DataFrame(ROWS[:4])}[form]()
    trainer = make_trainer(tmp_path / "given", train_dataset=given, eval_dataset=ROWS[4:])
    assert trainer.train_dataset.num_rows == 4
    trainer.train()
    plain = make_trainer(tmp_path / "plain", train_dataset=dataset.Dataset.from_list(ROWS[:4]))
    plain.train()
    assert logged(trainer, "loss") == logged(plain, "loss")
    assert changed(weights_of(trainer), weights_of(plain)) == set()


@pytest.mark.parametrize(
    ("lines", "rows"),
    [
        ({"max_steps": 5, "per_device_train_batch_size": 2}, 10),
        ({"max_steps": 5, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 3}, 30),
        ({"max_steps": 5, "per_device_train_batch_size": 2, "num_iterations": 2}, 6),
        ({"max_steps": 5, "per_device_train_batch_size": 2, "steps_per_estimation": 2}, 12),
        ({"max_steps": 8, "per_device_train_batch_size": 1, "steps_per_estimation": 2, "num_iterations": 3}, 4),
    ],
)
def test_so_many_rows_are_read_as_the_steps_visit(tmp_path, lines, rows):
    assert rows_of_run(options(tmp_path, **lines), "train_dataset") == rows


def test_each_row_of_a_stream_is_visited_once(tmp_path, streamed):
    asked = []

    def reward(question, **kwargs):
        asked.extend(question)
        return [1.0] * len(question)

    lines = {"num_iterations": 2, "max_steps": 4, "steps_per_estimation": 2, "num_selections": 2}
    make_trainer(tmp_path, train_dataset=streamed(), reward_funcs=reward, **lines).train()
    assert sorted(asked) == sorted(2 * [row["question"] for row in ROWS[:4]])


def test_a_resumed_stream_is_the_same_run(tmp_path, streamed):
    saving = {"save_strategy": "steps", "save_steps": 2, "max_steps": 3}
    whole = make_trainer(tmp_path / "run", train_dataset=streamed(), **saving)
    whole.train()
    resumed = make_trainer(tmp_path / "run", train_dataset=streamed(), **saving)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    assert changed(weights_of(whole), weights_of(resumed)) == set()
    longer = make_trainer(tmp_path / "run", train_dataset=streamed(), **{**saving, "max_steps": 4})
    with pytest.raises(ValueError, match="max_steps was 3 and is now 4, which decides how much is read of a stream"):
        longer.train(resume_from_checkpoint=str(last_checkpoint(tmp_path / "run")))


def test_a_stream_needs_a_number_of_steps(tmp_path, streamed):
    with pytest.raises(ValueError, match="train_dataset is a stream of rows.*: set max_steps"):
        make_trainer(tmp_path, train_dataset=streamed(), max_steps=-1, num_train_epochs=1)
    with pytest.raises(ValueError, match="eval_dataset is a stream of rows"):
        make_trainer(tmp_path, eval_dataset=streamed())


def test_a_faulty_row_is_named_by_its_number(tmp_path):
    rows = [ROWS[0], {**ROWS[1], "candidates": ROWS[1]["candidates"][:1]}]
    with pytest.raises(ValueError, match="train_dataset, row 2: field 'candidates': found 1 passages"):
        make_trainer(tmp_path, train_dataset=iter(rows))
    with pytest.raises(ValueError, match="train_dataset, row 1: field 'candidates' is missing"):
        make_trainer(tmp_path, train_dataset=[{k: v for k, v in ROWS[0].items() if k != "candidates"}, ROWS[1]])


def test_processes_that_read_other_rows_are_stopped(monkeypatch):
    monkeypatch.setattr(dataset, "gather_object", lambda given: [*given, "of another process"])
    with pytest.raises(ValueError, match="gives each process other rows; shuffle it with a seed"):
        dataset._check_alike(dataset.Dataset.from_list(ROWS), "train_dataset")
    monkeypatch.setattr(dataset, "gather_object", lambda given: [*given, *given])
    dataset._check_alike(dataset.Dataset.from_list(ROWS), "train_dataset")
