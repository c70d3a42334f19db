"""A pair is at home anywhere: moved, renamed, on a hub, with its base or beside it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dro_trl import RAGPipeline
from dro_trl.models.names import located, pair_folder, portable
from dro_trl.models.saving import merge_adapters, read_config
from tests.helpers.hub_server import hub_server
from tests.helpers.tiny_models import tiny_questions
from tests.helpers.training import LORA, make_trainer, save_start

ROWS = tiny_questions(4, 5)
ROOT = Path(__file__).resolve().parents[2]


def answers(folder, load=RAGPipeline.from_pretrained):
    return load(folder).predict(ROWS, max_new_tokens=3)


def trained(folder, **options):
    start = save_start(folder / "models" / "start")
    options = {"peft_config": LORA, "learning_rate": 0.1, **options}
    trainer = make_trainer(folder / "runs" / "pair", model=start, **options)
    trainer.train()
    trainer.save_model()
    return folder / "runs" / "pair"


@pytest.mark.parametrize("options", [{}, {"shared_base": True}, {"peft_config": None}], ids=["lora", "shared", "full"])
def test_nothing_in_a_pair_says_where_it_is(tmp_path, options):
    """Its folder and its base are moved together, and it answers as before; so do its start and its checkpoint."""
    pair = trained(tmp_path / "here", **options, save_strategy="steps", save_steps=2)
    expected = [answers(pair), answers(pair, RAGPipeline.from_start)]
    for file in [
        path for path in pair.rglob("*") if path.suffix in (".json", ".md") and path.name != "training_run.json"
    ]:
        assert str(tmp_path) not in file.read_text(), file
    shutil.move(tmp_path / "here", tmp_path / "there")
    moved = tmp_path / "there" / "runs" / "pair"
    assert [answers(moved), answers(moved, RAGPipeline.from_start)] == expected
    assert answers(moved / "checkpoint-2") == expected[0]


def test_a_base_that_was_not_moved_along_is_named(tmp_path):
    pair = trained(tmp_path / "here")
    shutil.move(pair, tmp_path / "alone")
    with pytest.raises(OSError, match=f"names the base {tmp_path.parent}.*, which does not exist"):
        answers(tmp_path / "alone")


@pytest.mark.parametrize("shared", [False, True])
def test_a_pair_with_its_base_needs_nothing_else(tmp_path, shared):
    pair = trained(tmp_path / "here", save_base=True, shared_base=shared)
    expected = answers(pair)
    shutil.move(pair, tmp_path / "alone")
    shutil.rmtree(tmp_path / "here")
    assert answers(tmp_path / "alone") == expected


def test_absolute_names_of_older_pairs_are_read(tmp_path):
    pair = trained(tmp_path / "here")
    expected, start = answers(pair), str(tmp_path / "here" / "models" / "start")
    for role in ("selector", "generator"):
        path = pair / role / "adapter_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "base_model_name_or_path": start}))
    config = json.loads((pair / "dro_config.json").read_text())
    assert config["start"] == {"selector": "../../models/start", "generator": "../../models/start"}
    (pair / "dro_config.json").write_text(json.dumps({**config, "start": dict.fromkeys(config["start"], start)}))
    assert answers(pair) == expected
    assert read_config(pair)["start"] == dict.fromkeys(config["start"], start)
    merge_adapters(pair, tmp_path / "merged")
    assert str(tmp_path) not in (tmp_path / "merged" / "dro_config.json").read_text()
    assert [output.answer for output in answers(tmp_path / "merged")] == [output.answer for output in expected]


def test_what_models_are_called(tmp_path):
    snapshot = tmp_path / "models--Qwen--Qwen2.5-0.5B" / "snapshots" / "0123abc"
    for folder in (snapshot, tmp_path / "a", tmp_path / "b" / "c"):
        folder.mkdir(parents=True)
    assert portable(str(snapshot), tmp_path) == "Qwen/Qwen2.5-0.5B"
    assert portable("Qwen/Qwen2.5-0.5B", tmp_path) == "Qwen/Qwen2.5-0.5B"
    assert portable(str(tmp_path / "a"), tmp_path / "b" / "c") == "../../a"
    assert portable(str(tmp_path / "a"), tmp_path) == "./a"
    assert portable("", tmp_path) == ""
    assert located("../../a", tmp_path / "b" / "c") == str(tmp_path / "a")
    assert located("user/repo", tmp_path) == "user/repo"
    assert pair_folder(tmp_path) == tmp_path


def test_saving_a_pipeline(tmp_path):
    pair = trained(tmp_path / "here")
    pipeline = RAGPipeline.from_pretrained(pair)
    pipeline.save_pretrained(tmp_path / "deeper" / "still" / "copy")
    pipeline.save_pretrained(tmp_path / "whole", include_base=True)
    shutil.move(tmp_path / "whole", tmp_path / "alone")
    expected = pipeline.predict(ROWS, max_new_tokens=3)
    assert answers(tmp_path / "deeper" / "still" / "copy") == expected
    assert answers(tmp_path / "alone") == expected
    memory = RAGPipeline(pipeline.selector, pipeline.generator, pipeline.policy, pipeline.tokenizer)
    with pytest.raises(ValueError, match="only a pair that RAGPipeline.from_pretrained loaded can be saved"):
        memory.save_pretrained(tmp_path / "no")


PROGRAM = """
import dataclasses, json, sys
from dro_trl import RAGPipeline
from dro_trl.cli.app import app
from tests.helpers.tiny_models import tiny_questions
pair, out, dataset = sys.argv[1:]
RAGPipeline.from_pretrained(pair).push_to_hub("someone/pair", token="hf_x", include_base=True)
rows = tiny_questions(4, 5)
found = {name: RAGPipeline.from_pretrained("someone/pair", revision=name).predict(rows, max_new_tokens=3)
         for name in (None, "main", "v1")}
json.dump({str(k): [dataclasses.asdict(o) for o in v] for k, v in found.items()}, open(out, "w"))
words = ["--model_name_or_path", "someone/pair", "--dataset_name", dataset, "--no_start"]
app(["evaluate", *words], standalone_mode=False)
from tests.helpers.training import LORA, make_trainer
trainer = make_trainer("second", model="someone/pair", peft_config=LORA)
assert trainer._start["selector"].endswith("selector")
"""


def test_a_pair_goes_to_a_hub_and_comes_back(tmp_path):
    """Pushed with its base, loaded by name and revision, evaluated by name, and the start of a second round."""
    pair = trained(tmp_path / "here")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    with hub_server() as hub:
        other = {str(path.relative_to(pair)): path.read_bytes() for path in pair.rglob("*") if path.is_file()}
        hub.repositories["someone/pair"] = {"v1": other}
        base = str(tmp_path / "here" / "models" / "start")
        for role in ("selector", "generator"):
            config = json.loads(other[f"{role}/adapter_config.json"])
            other[f"{role}/adapter_config.json"] = json.dumps({**config, "base_model_name_or_path": base}).encode()
        environment = {"HF_ENDPOINT": hub.endpoint, "HF_HUB_OFFLINE": "0", "NO_PROXY": "127.0.0.1"}
        environment |= {"HF_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", PROGRAM, str(pair), str(tmp_path / "out.json"), str(tmp_path / "rows.jsonl")]
        done = subprocess.run(
            command, cwd=tmp_path, env=os.environ | environment, capture_output=True, text=True, timeout=280
        )
    assert done.returncode == 0, done.stderr
    assert hub.created == ["someone/pair"]
    sent = hub.repositories["someone/pair"]["main"]
    assert json.loads(sent["selector/adapter_config.json"])["base_model_name_or_path"].startswith("../base")
    assert {"base/model.safetensors", "base/config.json"} <= sent.keys()
    assert not any(str(tmp_path).encode() in content for content in sent.values())
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["None"] == found["main"] == found["v1"]
    expected = answers(pair)
    assert [output["answer"] for output in found["main"]] == [output.answer for output in expected]
    assert (tmp_path / "evaluation" / "someone--pair" / "results.json").is_file()


def test_an_adapter_loads_into_transformers_from_inside_its_folder(tmp_path, monkeypatch):
    """Whose loader takes a relative base as seen from the working directory."""
    from transformers import AutoModelForCausalLM

    pair = trained(tmp_path / "here")
    expected = RAGPipeline.from_pretrained(pair, dtype="float32").selector
    monkeypatch.chdir(pair / "selector")
    alone, ids = AutoModelForCausalLM.from_pretrained("."), torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        torch.testing.assert_close(alone(ids).logits, expected(ids).logits, atol=1e-5, rtol=0)
