"""A run that is interrupted and taken up again is the same run, bit for bit."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dro_trl.checkpointing import last_checkpoint
from tests.training import LORA, changed, logged, make_trainer, questions, weights_of

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
    ],
    ids=["on-policy lora", "on-policy full", "in a window full", "in a window lora"],
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


def test_a_checkpoint_holds_samples_but_no_rows(tmp_path):
    """Rows come from the dataset again: whatever its columns hold, the checkpoint can be read."""
    import datetime

    rows = questions().add_column("day", [datetime.datetime(2020, 1, day) for day in range(1, 7)])
    kwargs = {"train_dataset": rows, "num_iterations": 2, "max_steps": 2, "save_strategy": "steps", "save_steps": 1}
    make_trainer(tmp_path, **kwargs).train()
    state = torch.load(tmp_path / "checkpoint-1" / "estimation_state_0.pt", weights_only=True)
    (part,) = state["estimation"]["parts"]
    assert set(part) == {"selections", "behavior_logps", "rewards", "ref_logps"}
    assert state["estimation"]["uses_left"] == 1
    make_trainer(tmp_path / "rest", **kwargs).train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))


PROGRAM = """
import sys, time
from pathlib import Path
from transformers import TrainerCallback
from dro_trl.checkpointing import last_checkpoint
from tests.training import LORA, make_trainer

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
    from tests.training import save_start

    start = save_start(tmp_path / "start")
    root = Path(__file__).resolve().parents[1]

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
