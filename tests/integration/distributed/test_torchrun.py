"""`torchrun`, on one machine and as on two, trains what `accelerate launch` trains, and goes on after a kill."""

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
import yaml

from tests.helpers.launching import REPOSITORY
from tests.helpers.tiny_models import tiny_questions
from tests.helpers.training import save_start

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

LAUNCHES = {
    "accelerate": [
        "accelerate.commands.launch",
        "--config_file",
        str(REPOSITORY / "recipes/accelerate/cpu_2proc.yaml"),
    ],
    "torchrun": ["torch.distributed.run", "--nproc_per_node", "2"],
    "two machines": [
        *("torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "1"),
        *("--rdzv_id", "0", "--rdzv_backend", "c10d", "--rdzv_endpoint", "127.0.0.1:29513"),
    ],
}


@pytest.fixture
def recipe(tmp_path):
    rows = tiny_questions(4, 25, 6, 4, 25, 4, 5)
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = {
        **{"model_name_or_path": str(save_start(tmp_path / "start")), "dataset_name": str(tmp_path / "train.jsonl")},
        **{"num_selected": 2, "num_selections": 4, "per_device_train_batch_size": 1, "learning_rate": 1e-2},
        **{"max_steps": 8, "save_steps": 2, "logging_steps": 2, "report_to": "none", "use_cpu": True},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(lines))
    return tmp_path / "recipe.yaml"


def start(how, recipe):
    """Start what is launched once, or once on each machine."""
    folder = recipe.parent / how
    command = [sys.executable, "-m", *LAUNCHES[how], "-m", "dro_trl", "train", "--config", str(recipe)]
    return [
        subprocess.Popen(
            [*command, "--output_dir", str(folder), "--resume"],
            cwd=REPOSITORY,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(1 + (how == "two machines"))
    ]


def end_of(launched):
    said = "".join(process.communicate()[0] for process in launched)
    assert [process.returncode for process in launched] == [0] * len(launched), said
    return said


def kill_after_a_checkpoint(launched, folder):
    while not list(folder.glob("checkpoint-*/trainer_state.json")):
        assert all(process.poll() is None for process in launched)
        time.sleep(0.05)
    for process in launched:
        for one in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]:
            one.kill()
    for process in launched:
        process.communicate()
        assert process.returncode == -signal.SIGKILL


def test_every_launcher_trains_the_same_pair(recipe):
    assert end_of(start("accelerate", recipe)).count("do not fill") == 1
    assert end_of(start("torchrun", recipe)).count("do not fill") == 1
    launched = start("two machines", recipe)
    kill_after_a_checkpoint(launched, recipe.parent / "two machines")
    assert end_of(start("two machines", recipe)).count("do not fill") == 1
    for role in ("selector", "generator"):
        weights = {(recipe.parent / how / role / "model.safetensors").read_bytes() for how in LAUNCHES}
        assert len(weights) == 1
