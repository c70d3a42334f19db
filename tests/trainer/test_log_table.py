"""What training prints: a row a log, the time that is left, and hints; read at 80 columns."""

import pytest
from transformers import PrinterCallback, ProgressCallback, TrainerState
from trl import RichProgressCallback

from dro_trl.trainer import log_table
from dro_trl.trainer.log_table import NOT_FINITE, SAME_REWARDS, LogTable, LogTableWithBar, Rows, clock
from tests.helpers.training import make_trainer, questions

LOG = {"loss": 21.43, "reward": -21.99, "entropy": 1.465, "ess": 3.344, "selection_recall": 0.0625, "reward_std": 0.5}


def test_a_row_says_the_numbers_and_the_time_left(monkeypatch):
    """Ten of forty steps in 30 s leave 90 s; a run that is resumed at 10 has made ten steps at 20."""
    now = [100.0]
    monkeypatch.setattr(log_table.time, "monotonic", lambda: now[0])
    rows = Rows()
    rows.begin(TrainerState(global_step=0, max_steps=40))
    now[0] = 130.0
    heading, row = rows.lines(LOG, TrainerState(global_step=10, max_steps=40))
    assert heading.split() == ["step", "loss", "reward", "recall", "entropy", "ESS", "left"]
    assert row.split() == ["10/40", "21.43", "-21.99", "0.0625", "1.465", "3.344", "0:01:30"]
    assert [
        len(line) <= 80 and line.index(cell) + len(cell) for line, cell in ((heading, "loss"), (row, "21.43"))
    ] == [
        24,
        24,
    ]
    rows.begin(TrainerState(global_step=10, max_steps=40))
    now[0] = 140.0
    [row] = rows.lines(LOG, TrainerState(global_step=20, max_steps=40))
    assert row.split()[-1] == "0:00:20"


def test_an_evaluation_and_the_end_have_rows_of_their_own():
    rows, state = Rows(), TrainerState(global_step=10, max_steps=40)
    _, row = rows.lines({f"eval_{name}": value for name, value in LOG.items()}, state)
    assert row.split() == ["evaluated", "21.43", "-21.99", "0.0625", "1.465", "3.344"]
    assert rows.lines({"train_runtime": 3725.4, "train_loss": 1.0}, state) == ["trained 10 steps in 1:02:05"]
    [_, row] = Rows().lines({"loss": 1.0, "reward": 2.0}, state)
    assert row.split()[1:6] == ["1", "2", "–", "–", "–"]
    assert Rows().lines({"mine": 3}, state) == ["mine: 3"]
    assert clock(59.6) == "0:01:00"


def test_a_hint_is_said_once():
    rows, state = Rows(), TrainerState(global_step=1, max_steps=4)
    for deviation in (0.0, 0.0, 0.5, 0.0, 0.0):
        assert len(rows.lines({**LOG, "reward_std": deviation}, state)) <= 2
    assert rows.lines({**LOG, "reward_std": 0.0}, state)[1:] == [SAME_REWARDS]
    assert rows.lines({**LOG, "reward_std": 0.0}, state)[1:] == []
    assert rows.lines({**LOG, "loss": float("nan")}, state)[1:] == [NOT_FINITE]


@pytest.mark.parametrize("bar", [False, True])
def test_a_run_prints_the_table_in_place_of_dictionaries(tmp_path, capsys, bar):
    trainer = make_trainer(
        tmp_path, disable_tqdm=not bar, max_steps=3, eval_strategy="steps", eval_steps=2, eval_dataset=questions()
    )
    kinds = [type(callback) for callback in trainer.callback_handler.callbacks]
    assert not {PrinterCallback, ProgressCallback} & {*kinds}
    assert (LogTableWithBar if bar else LogTable) in kinds
    assert len(kinds) == len({*kinds})
    trainer.train()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.strip() and line[0] != "["]
    assert [line.split()[0] for line in lines] == ["step", "1/3", "2/3", "evaluated", "3/3", "evaluated", "trained"]
    logged = [record for record in trainer.state.log_history if "reward" in record]
    assert [line.split()[2] for line in lines if "/3 " in line] == [f"{record['reward']:.4g}" for record in logged]


def test_a_callback_that_was_given_stays(tmp_path, capsys):
    """Such as TRL's, which shows a panel in place of lines."""
    trainer = make_trainer(tmp_path, callbacks=[RichProgressCallback()])
    trainer.train()
    assert RichProgressCallback in [type(callback) for callback in trainer.callback_handler.callbacks]
    assert "reward" in capsys.readouterr().out
