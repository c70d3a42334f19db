"""TRL's own trainers, unmodified, on our questions, candidates and reward."""

import math

import pytest
import trl


@pytest.mark.parametrize(("name", "kind"), [("grpo", trl.GRPOTrainer), ("rloo", trl.RLOOTrainer)])
def test_stock_trainers(run_example, capsys, name, kind):
    """A tiny selector with random weights writes no selection: each completion gets the stated reward, and counts."""
    names = run_example("stock_trl_grpo.py", "--trainer", name, "--max_steps", "2", "--output_dir", "out")
    trainer = names["trainer"]
    assert type(trainer) is kind
    assert trainer.state.global_step == 2
    records = [record for record in trainer.state.log_history if "loss" in record]
    assert len(records) == 2
    for record in records:
        assert math.isfinite(record["loss"])
        assert record["malformed/answer_log_likelihood"] == 1.0
        assert record["reward"] == record["rewards/answer_log_likelihood/mean"] == -100.0
    assert "malformed: 16 of 16 completions" in capsys.readouterr().out
