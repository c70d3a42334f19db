"""A kill while models are saved leaves the old ones, the new ones, or what is refused as neither."""

import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from dro_trl import RAGPipeline
from dro_trl.models.loading import load_model
from dro_trl.models.merging import save_whole
from dro_trl.models.replacing import STAGING, replacing_model
from dro_trl.models.saving import copy_pair, merge_adapters
from tests.helpers.tiny_models import tiny_questions
from tests.helpers.training import LORA, make_trainer, save_start

REPOSITORY = Path(__file__).resolve().parents[2]
ROWS = tiny_questions(4, 5)


def trained(start, folder, seed, **options):
    """Return a trainer of a pair with weights of its own."""
    trainer = make_trainer(folder, model=str(start), num_selected=1 + seed, **options)
    torch.manual_seed(seed)
    for parameter in trainer.model.parameters():
        if parameter.requires_grad:
            parameter.data.add_(torch.randn_like(parameter) * 0.2)
    return trainer


def pairs(start, old, root, first, second, **options):
    """A pair is saved over an earlier one: `first` and `second` are their PEFT configs."""
    trained(start, old, 0, peft_config=first, **options).save_model()
    new = trained(start, old, 1, peft_config=second)
    return lambda folder: new.save_model(str(folder))


def merged(start, old, root):
    """A pair is merged over what an earlier one was merged into."""
    for seed, name in enumerate(("earlier", "adapters")):
        trained(start, root / name, seed, peft_config=LORA).save_model()
    merge_adapters(root / "earlier", old)
    return lambda folder: merge_adapters(root / "adapters", folder)


def copied(start, old, root):
    """A checkpoint is copied over the pair of an earlier one."""
    trained(start, root / "checkpoint", 1).save_model()
    trained(start, old, 0, peft_config=LORA).save_model()
    return lambda folder: copy_pair(root / "checkpoint", folder)


def warmed(start, old, root):
    """A model is written over an earlier one, in a folder that holds other things as well."""
    trained(start, root / "pair", 1, peft_config=LORA).save_model()
    shutil.copytree(start, old)
    (old / "warmup_results.json").write_text("{}")

    def save(folder):
        with replacing_model(folder) as staged:
            save_whole(root / "pair" / "selector", staged, "float32")

    return save


SAVES = {
    "full over LoRA": partial(pairs, first=LORA, second=None),
    "LoRA over PPO": partial(pairs, first=None, second=LORA, loss_type="ppo"),
    "merged": merged,
    "copied": copied,
    "warmed": warmed,
}
"""Each returns what saves into a folder; before, it fills `old`."""


def what_is_there(folder, what):
    """Return what a folder computes, or why it is refused."""
    try:
        if what == "warmed":
            with torch.no_grad():
                return load_model(str(folder))(torch.tensor([[5, 6, 7]])).logits.flatten().tolist()
        outputs = RAGPipeline.from_pretrained(folder, dtype="float32").predict(ROWS, max_new_tokens=3)
    except (ValueError, OSError) as error:
        return str(error)
    return [(output.answer, output.scores) for output in outputs]


def contents(folder):
    """Return the files that are looked at."""
    files = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return frozenset((path, content) for path, content in files.items() if path.parts[0] != STAGING)


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    root = tmp_path_factory.mktemp("killed")
    program = [sys.executable, "-m", "tests.helpers.kill_program", save_start(root / "start"), str(root)]
    subprocess.run(program, check=True, cwd=REPOSITORY, timeout=250)
    return root


@pytest.mark.parametrize("what", SAVES)
def test_old_new_or_refused(killed, what):
    left = [path for path in (killed / what).iterdir() if path.name.isdigit()]
    left.sort(key=lambda path: int(path.name))
    seen = {contents(folder): folder for folder in [*left, killed / what / "old"]}
    found = {key: what_is_there(folder, what) for key, folder in seen.items()}
    old, new = found[contents(killed / what / "old")], found[contents(left[-1])]
    assert isinstance(old, list)
    assert isinstance(new, list)
    assert old != new
    states = []
    for folder in left:
        there = found[contents(folder)]
        if isinstance(there, str):
            assert "\n" not in there
            assert str(killed / what) in there
        states.append("refused" if isinstance(there, str) else ["old", "new"][[old, new].index(there)])
    assert states == sorted(states, key=["old", "refused", "new"].index)
    # A merged pair takes its place in one step.
    assert {*states} == {"old", "new"} | ({"refused"} if what != "merged" else set())
    assert len(left) > 20
    assert not (left[-1] / STAGING).exists()
    if what == "warmed":
        assert (left[-1] / "warmup_results.json").exists()
    if what == "LoRA over PPO":
        assert (left[0] / "value_head.safetensors").exists()
        assert not (left[-1] / "value_head.safetensors").exists()
