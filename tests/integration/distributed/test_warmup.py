"""A warm-up on two processes is the one on one process, where processes have selections of different lengths too."""

import json

import pytest
import torch
from safetensors.torch import load_file

from tests.helpers.launching import launch
from tests.recipes.test_warmup import LORA, recipe_of, two_golds

pytestmark = pytest.mark.backends


LINES = {"teacher": "gold", "num_train_epochs": 2, "optim": "sgd", "max_grad_norm": 0.0}


def weights_after(folder, backend, part, path, batch_size):
    out = folder / f"{backend}_{part}"
    options = ["--config", path, "--output_dir", str(out), "--per_device_train_batch_size", str(batch_size)]
    launch(backend, "tests.helpers.warmup_program", part, *options)
    return load_file(out / "model.safetensors"), json.loads((out / "warmup_results.json").read_text())


@pytest.mark.parametrize(
    "backend", ["cpu_2proc", *(pytest.param(b, marks=pytest.mark.slow) for b in ("fsdp2", "zero3"))]
)
@pytest.mark.parametrize(
    "lines", [pytest.param({}, id="all weights"), pytest.param(LORA, id="lora", marks=pytest.mark.slow)]
)
def test_two_processes_learn_what_one_does(tmp_path, backend, lines):
    rows = [two_golds()[i] for i in (0, 1, 2, 4)]  # Lengths 1, 2, 1, 1: one process has two lengths, the other one.
    path = recipe_of(tmp_path, rows, **LINES, **lines)
    start = load_file(tmp_path / "start" / "model.safetensors")
    (one, expected), (two, found) = (
        weights_after(tmp_path, name, "selector", path, size) for name, size in (("one", 4), (backend, 2))
    )
    assert found["loss_end"] == pytest.approx(expected["loss_end"], rel=1e-3)
    assert found["loss_end"] < found["loss_start"]
    moved = {name for name in start if not torch.equal(start[name], one[name])}
    assert len(moved) > 1
    for name in start:
        assert torch.allclose(one[name], two[name], atol=1e-5), name


@pytest.mark.slow
def test_two_processes_ask_the_generator_half_each(tmp_path):
    path = recipe_of(tmp_path, two_golds(), teacher="likelihood", max_steps=1)
    ranked = []
    for backend in ("one", "cpu_2proc"):
        weights_after(tmp_path, backend, "generator", path, 2)
        saved = json.loads((tmp_path / f"{backend}_generator" / "teacher_likelihood.train_dataset.json").read_text())
        ranked.append([[id for id, _ in one] for one in saved["ranked"]])
    assert ranked[0] == ranked[1]
