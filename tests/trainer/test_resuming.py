"""A run that is interrupted and taken up again is the same run, bit for bit."""

import contextlib
import json
import logging
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dro_trl import DROTrainer
from dro_trl.trainer.resuming import check_same_run, describe_run, last_checkpoint, save_run
from tests.helpers.training import LORA, changed, logged, make_trainer, questions, weights_of

WINDOW = {"steps_per_estimation": 2, "num_iterations": 2}


def history(trainer):
    """What was logged, without the clock."""
    return [record for record in trainer.state.log_history if "train_runtime" not in record]


@pytest.mark.parametrize(
    "kwargs",
    [
        {"peft_config": LORA},
        {"lr_scheduler_type": "linear", "gradient_accumulation_steps": 2},
        WINDOW,
        {**WINDOW, "peft_config": LORA, "kl_coef": 0.1, "optim": "sgd"},
        {**WINDOW, "loss_type": "ppo"},
        {"peft_config": LORA, "policy_kwargs": {"learn_weights": True}},
        {"peft_config": LORA, "train_generator": False},
    ],
    ids=[
        "on-policy lora",
        "on-policy full",
        "in a window full",
        "in a window lora",
        "in a window with values",
        "weights learnt",
        "generator frozen",
    ],
)
def test_resuming_is_exact(tmp_path, kwargs):
    """Six steps at once, and three and three: the checkpoint lies within an epoch, a window and a logging interval."""
    kwargs = {"max_steps": 6, "logging_steps": 2, "save_strategy": "steps", "save_steps": 3, **kwargs}
    whole = make_trainer(tmp_path, **kwargs)
    whole.train()
    checkpoint = tmp_path / "checkpoint-3"
    rest = make_trainer(tmp_path / "rest", **kwargs)
    torch.rand(17)
    rest.train(resume_from_checkpoint=str(checkpoint))
    assert rest.state.global_step == 6
    assert changed(weights_of(whole), weights_of(rest)) == set()
    assert history(rest) == history(whole)
    assert len(logged(rest, "reward")) == 3
    # It is the state of the checkpoint that decides, not that of a fresh trainer.
    assert changed(weights_of(whole), weights_of(make_trainer(tmp_path / "start", **kwargs))) != set()


def test_resuming_in_a_later_epoch(tmp_path):
    kwargs = {"num_train_epochs": 2, "max_steps": -1, "save_strategy": "steps", "save_steps": 4, "learning_rate": 1e-2}
    whole = make_trainer(tmp_path, **kwargs)
    whole.train()
    rest = make_trainer(tmp_path / "rest", **kwargs)
    rest.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert changed(weights_of(whole), weights_of(rest)) == set()
    assert history(rest) == history(whole)


def test_resuming_draws_without_replacement(tmp_path):
    kwargs = {"policy_kwargs": {"proposal": "without_replacement"}, **WINDOW, "max_steps": 6, "learning_rate": 1e-2}
    whole = make_trainer(tmp_path, save_strategy="steps", save_steps=3, **kwargs)
    whole.train()
    rest = make_trainer(tmp_path / "rest", **kwargs)
    rest.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert changed(weights_of(whole), weights_of(rest)) == set()


def test_a_checkpoint_holds_samples_but_no_rows(tmp_path):
    """Rows come from the dataset again: whatever its columns hold, the checkpoint can be read."""
    import datetime

    rows = questions().add_column("day", [datetime.datetime(2020, 1, day) for day in range(1, 7)])
    kwargs = {"train_dataset": rows, "num_iterations": 2, "max_steps": 2, "save_strategy": "steps", "save_steps": 1}
    make_trainer(tmp_path, **kwargs).train()
    state = torch.load(tmp_path / "checkpoint-1" / "estimation_state_0.pt", weights_only=True)
    (part,) = state["estimation"]["parts"]
    assert set(part) == {"selections", "behavior_logps", "rewards", "ref_logps", "old_values"}
    assert state["estimation"]["uses_left"] == 1
    make_trainer(tmp_path / "rest", **kwargs).train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))


def test_the_last_checkpoint_is_the_newest_whole_one(tmp_path, caplog):
    assert last_checkpoint(tmp_path / "nowhere") is None
    assert last_checkpoint(tmp_path) is None
    for step, text in ((2, "{}"), (9, "{}"), (10, '{"global_step": 1'), (11, None)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if text is not None:
            (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(text)
    (tmp_path / "checkpoint-best").mkdir()
    with caplog.at_level(logging.WARNING):
        assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-9"
    assert [record.getMessage().partition(" ")[0][-2:] for record in caplog.records] == ["11", "10"]


def test_the_newest_checkpoint_stays_beside_the_best(tmp_path):
    """With a limit of one as well: the run is then prolonged from where it ended, not from its best step."""
    kwargs = {"eval_dataset": questions().select(range(2)), "eval_strategy": "steps", "eval_steps": 1, "save_steps": 1}
    kwargs |= {"save_strategy": "steps", "save_total_limit": 1, "metric_for_best_model": "eval_num", "max_steps": 3}
    falling = iter([3.0, 2.0, 1.0, 0.0])

    class Falling(DROTrainer):
        def evaluate(self, *args, **kwargs):
            metrics = super().evaluate(*args, **kwargs) | {"eval_num": next(falling)}
            return metrics

    def checkpoints():
        return sorted(path.name for path in tmp_path.glob("checkpoint-*"))

    make_trainer(tmp_path, trainer_class=Falling, greater_is_better=True, **kwargs).train()
    assert checkpoints() == ["checkpoint-1", "checkpoint-3"]
    longer = make_trainer(tmp_path, trainer_class=Falling, greater_is_better=True, **{**kwargs, "max_steps": 4})
    longer.train(resume_from_checkpoint=True)
    assert [record["step"] for record in longer.state.log_history if "reward" in record] == [1, 2, 3, 4]
    assert next(falling, None) is None  # Step 4 alone was evaluated anew.
    assert checkpoints() == ["checkpoint-1", "checkpoint-4"]
    assert longer.args.save_total_limit == 1


def test_true_resumes_from_the_last_whole_checkpoint(tmp_path):
    kwargs = {"max_steps": 3, "save_strategy": "steps", "save_steps": 1}
    with pytest.raises(ValueError, match="holds no whole checkpoint to resume from"):
        make_trainer(tmp_path, **kwargs).train(resume_from_checkpoint=True)
    make_trainer(tmp_path, **kwargs).train()
    (tmp_path / "checkpoint-3" / "trainer_state.json").unlink()
    rest = make_trainer(tmp_path, **kwargs)
    rest.train(resume_from_checkpoint=True)
    assert len([record for record in rest.state.log_history if "reward" in record]) == 3


@pytest.mark.parametrize(
    ("changed_options", "message"),
    [
        ({"learning_rate": 0.5}, "learning_rate was 0.001 and is now 0.5"),
        ({"num_selections": 3, "seed": 7}, "num_selections was 4 and is now 3; seed was 42 and is now 7; .*"),
        (
            {"train_dataset": questions().select(range(4))},
            "train_dataset was '[0-9a-f]{16}' and is now '[0-9a-f]{16}'",
        ),
        ({"peft_config": LORA}, "trained_tensors was 42 and is now 16"),
    ],
    ids=["option", "two options", "data", "adapters"],
)
def test_another_run_is_not_resumed(tmp_path, changed_options, message):
    kwargs = {"max_steps": 1, "save_strategy": "steps", "save_steps": 1}
    make_trainer(tmp_path, **kwargs).train()
    with pytest.raises(ValueError, match=f"cannot go on from .*checkpoint-1: {message}. Set it back"):
        make_trainer(tmp_path, **{**kwargs, **changed_options}).train(resume_from_checkpoint=True)


def test_another_number_of_processes_or_backend_is_not_resumed(tmp_path):
    save_run(tmp_path, describe_run({}, [], processes=2, backend="DEEPSPEED ZeRO-3"))
    check_same_run(tmp_path, describe_run({}, [], processes=2, backend="DEEPSPEED ZeRO-3"))
    with pytest.raises(ValueError, match=r"processes was 2 and is now 4\. Set it back"):
        check_same_run(tmp_path, describe_run({}, [], processes=4, backend="DEEPSPEED ZeRO-3"))
    with pytest.raises(ValueError, match=r"backend was 'DEEPSPEED ZeRO-3' and is now 'MULTI_GPU'"):
        check_same_run(tmp_path, describe_run({}, [], processes=2, backend="MULTI_GPU"))


def test_what_may_change_is_said(tmp_path, caplog):
    kwargs = {"save_strategy": "steps", "save_steps": 1}
    make_trainer(tmp_path, max_steps=1, **kwargs).train()
    with caplog.at_level(logging.WARNING, "dro_trl.trainer.resuming"):
        make_trainer(tmp_path, max_steps=2, **kwargs).train(resume_from_checkpoint=True)
    (message,) = [record.getMessage() for record in caplog.records if "resuming from" in record.getMessage()]
    assert message.endswith("checkpoint-1: max_steps was 1 and is now 2 (allowed)")


def test_a_checkpoint_that_is_written_again_is_torn_meanwhile(tmp_path, monkeypatch):
    """Weights of one run beside the `trainer_state.json` of another must not pass for a checkpoint."""
    kwargs = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1}
    make_trainer(tmp_path, **kwargs).train()

    def fail(*args, **kwargs):
        raise RuntimeError("killed here")

    monkeypatch.setattr("dro_trl.trainer.resuming.save_pending", fail)
    with pytest.raises(RuntimeError, match="killed here"):
        make_trainer(tmp_path, **kwargs).train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-1"


def test_a_full_disk_is_told_and_leaves_the_last_checkpoint(tmp_path):
    """On a file system of three megabytes, filled up between the first checkpoint and the second."""
    small = tmp_path / "small"
    small.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(small)], capture_output=True)
    if mount.returncode:
        pytest.skip("needs the right to mount a file system")
    try:
        kwargs = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1, "lr_scheduler_type": "constant"}
        make_trainer(small, **{**kwargs, "max_steps": 1}).train()
        with (small / "filler").open("wb") as filler, contextlib.suppress(OSError):
            while True:
                filler.write(bytes(2**16))
                filler.flush()
        with pytest.raises(OSError, match="checkpoint-2 could not be saved, the disk is full: .* is .*checkpoint-1"):
            make_trainer(small, **kwargs).train(resume_from_checkpoint=True)
        assert last_checkpoint(small) == small / "checkpoint-1"
        assert not (small / "checkpoint-2").exists()
        (small / "filler").unlink()
        make_trainer(small, **{**kwargs, "save_strategy": "no"}).train(resume_from_checkpoint=True)
    finally:
        subprocess.run(["umount", str(small)], check=True)


PROGRAM = """
import sys, time
from pathlib import Path
from transformers import TrainerCallback
from dro_trl.trainer.resuming import check_same_run, describe_run, last_checkpoint, save_run
from tests.helpers.training import LORA, make_trainer

folder, linger = Path(sys.argv[1]), sys.argv[2] == "linger"

class Linger(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        print("step", state.global_step, flush=True)
        if linger and state.global_step == 4:  # The step is done and its checkpoint is not written.
            time.sleep(600)

trainer = make_trainer(folder, model=sys.argv[3], peft_config=LORA, max_steps=6, save_strategy="steps", save_steps=1,
                       steps_per_estimation=2, num_iterations=2, callbacks=[Linger()])
checkpoint = last_checkpoint(folder)
trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
trainer.save_model()
trainer.save_state()
"""


def test_a_run_killed_outright_goes_on_as_if_it_had_not_been(tmp_path):
    from tests.helpers.training import save_start

    start = save_start(tmp_path / "start")
    root = Path(__file__).resolve().parents[2]

    def command(mode, folder):
        return [sys.executable, "-c", PROGRAM, str(tmp_path / folder), mode, start]

    with subprocess.Popen(command("linger", "killed"), cwd=root, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("step 4"):
                break
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert last_checkpoint(tmp_path / "killed") == tmp_path / "killed" / "checkpoint-3"
    (tmp_path / "killed" / "checkpoint-4").mkdir()  # What a kill in the middle of saving leaves.
    done = subprocess.run(command("go on", "killed"), cwd=root, stdout=subprocess.PIPE, text=True, check=True)
    assert [line for line in done.stdout.splitlines() if line.startswith("step")] == ["step 4", "step 5", "step 6"]

    whole = make_trainer(
        tmp_path / "whole", model=start, peft_config=LORA, max_steps=6, **WINDOW, save_strategy="steps", save_steps=1
    )
    whole.train()
    whole.save_model()
    for part in ("selector", "generator"):
        adapters = [load_file(tmp_path / run / part / "adapter_model.safetensors") for run in ("killed", "whole")]
        assert changed(*adapters) == set()
    state = json.loads((tmp_path / "killed" / "trainer_state.json").read_text())
    assert [r for r in state["log_history"] if "train_runtime" not in r] == history(whole)
