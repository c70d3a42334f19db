"""What is saved can be used without this package, in another process."""

import logging
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from dro_trl import RAGPipeline
from dro_trl.cli.app import app
from dro_trl.models.loading import load_tokenizer
from dro_trl.models.saving import CONFIG_NAME, load_models, merge_adapters, read_config
from tests.helpers.tiny_models import tiny_model, tiny_tokenizer
from tests.helpers.training import LORA, changed, make_trainer, questions, save_start, weights_of

runner = CliRunner()

READ_ALONE = """
import os, sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
logits = {}
for folder in sys.argv[2:]:
    os.chdir(folder)  # An adapter names its base as seen from its own folder.
    model = AutoModelForCausalLM.from_pretrained(".").eval()
    ids = AutoTokenizer.from_pretrained(".")("Who founded the club of Oslo?", return_tensors="pt").input_ids
    with torch.no_grad():
        logits[folder] = model(ids).logits
torch.save(logits, sys.argv[1])
"""


def test_each_model_loads_alone_in_a_fresh_process(tmp_path):
    """Full and LoRA, with tied embeddings and without."""
    ids = tiny_tokenizer()("Who founded the club of Oslo?", return_tensors="pt").input_ids
    expected, folders = {}, []
    for name, peft_config, tied in (("full", None, False), ("tied", None, True), ("lora", LORA, False)):
        start = save_start(tmp_path / f"start-{name}", "gemma3" if tied else "llama", tie_word_embeddings=tied)
        trainer = make_trainer(tmp_path / name, model=start, peft_config=peft_config, max_steps=1, learning_rate=1e-2)
        trainer.train()
        trainer.save_model()
        for part in ("selector", "generator"):
            folders.append(str(tmp_path / name / part))
            with torch.no_grad():
                expected[folders[-1]] = getattr(trainer.model, part).eval()(ids).logits
            start_logits = tiny_model("gemma3" if tied else "llama", tiny_tokenizer(), tie_word_embeddings=tied)(
                ids
            ).logits
            assert not torch.allclose(expected[folders[-1]], start_logits, atol=1e-4)
    out = tmp_path / "logits.pt"
    subprocess.run([sys.executable, "-c", READ_ALONE, str(out), *folders], check=True, timeout=240)
    found = torch.load(out)
    assert found.keys() == expected.keys()
    for folder, logits in expected.items():
        torch.testing.assert_close(found[folder], logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("peft_config", [None, LORA])
def test_a_pair_trained_from_a_relative_folder_is_found_from_anywhere(tmp_path, monkeypatch, peft_config):
    save_start(tmp_path / "start")
    monkeypatch.chdir(tmp_path)
    trainer = make_trainer(Path("pair"), model="start", peft_config=peft_config, max_steps=1)
    trainer.train()
    trainer.save_model()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for load in (RAGPipeline.from_pretrained, RAGPipeline.from_start):
        assert load("../pair").policy.num_selected == 2


def test_an_adapter_without_a_base_to_load_is_told(tmp_path, caplog):
    start = save_start(tmp_path / "start")
    with caplog.at_level(logging.WARNING, "dro_trl.trainer.resuming"):
        make_trainer(tmp_path / "a", model=start, peft_config=LORA)
        make_trainer(tmp_path / "b")
        assert "the adapter of a model" not in caplog.text
        make_trainer(tmp_path / "c", peft_config=LORA, train_selector=False)
    assert caplog.text.count("the adapter of a model made in memory ") == 1


@pytest.mark.parametrize("peft_config", [None, LORA], ids=["full", "lora"])
def test_weights_come_back_bit_for_bit(tmp_path, peft_config):
    start = save_start(tmp_path / "start", "gemma3", tie_word_embeddings=True)
    trainer = make_trainer(tmp_path / "out", model=start, peft_config=peft_config, learning_rate=1e-2)
    trainer.train()
    trainer.save_model()
    fresh = make_trainer(tmp_path / "other", model=start, peft_config=peft_config, seed=5)
    assert changed(weights_of(fresh), weights_of(trainer)) != set()
    load_models(fresh.model, tmp_path / "out")
    assert changed(weights_of(fresh), weights_of(trainer)) == set()
    selector = fresh.model.selector
    assert selector.get_input_embeddings().weight is selector.get_output_embeddings().weight


def test_the_wrong_weights_are_refused(tmp_path):
    trainer = make_trainer(tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="nowhere/selector does not exist"):
        load_models(trainer.model, tmp_path / "nowhere")
    trainer.save_model()
    other = make_trainer(tmp_path / "b", model=tiny_model("llama", tiny_tokenizer(), num_hidden_layers=3))
    with pytest.raises(
        ValueError, match=r"selector/model.safetensors does not fit the model: missing: .*layers.2.*\(9\)"
    ):
        load_models(other.model, tmp_path / "out")


def test_the_selection_options_are_saved_and_read(tmp_path):
    start = save_start(tmp_path / "start")
    kwargs = {
        "policy_kwargs": {"retriever_prior": 0.5},
        "prompt_texts": {"answer": "Antwort:"},
        "max_passage_tokens": 30,
        "num_candidates": 7,
    }
    make_trainer(tmp_path / "out", model=start, **kwargs).save_model()
    turns = {"before": "<s>", "between": "", "end": "\n", "chat": False, "space": ""}
    turns |= dict.fromkeys(("think", "thought_end", "thought_mark"))
    assert read_config(tmp_path / "out") == {
        **kwargs,
        "chat": "auto",
        "chat_template_kwargs": None,
        "turns": {"selector": turns, "generator": turns},
        "max_thinking_tokens": 0,
        "policy": "dro_trl.PlackettLucePolicy",
        "learnt_policy_kwargs": None,
        "num_selected": 2,
        "shared_base": False,
        "start": {"selector": start, "generator": start},
        "start_policy_kwargs": None,
    }
    with pytest.raises(FileNotFoundError, match=f"{CONFIG_NAME} does not exist; give the output_dir"):
        read_config(tmp_path / "start")


def test_a_tokenizer_gets_a_padding_token(tmp_path):
    save_start(tmp_path)
    tokenizer = load_tokenizer(str(tmp_path))
    assert tokenizer.pad_token == "<pad>"
    tokenizer.pad_token = None
    assert load_tokenizer(tokenizer) is tokenizer
    assert tokenizer.pad_token == tokenizer.eos_token == "</s>"


@pytest.mark.parametrize("options", [{}, {"shared_base": True}, {"train_generator": False}])
def test_merged_models_select_and_answer_alike(tmp_path, options):
    start = save_start(tmp_path / "start")
    trainer = make_trainer(tmp_path / "out", model=start, peft_config=LORA, learning_rate=0.1, **options)
    trainer.train()
    trainer.save_model()
    done = runner.invoke(
        app, ["merge", "--model_name_or_path", str(tmp_path / "out"), "--output_dir", str(tmp_path / "merged")]
    )
    assert done.exit_code == 0, done.output
    assert str(tmp_path / "merged") in done.output
    assert not list((tmp_path / "merged").rglob("adapter*"))
    rows = questions().to_list()
    pairs = {name: RAGPipeline.from_pretrained(tmp_path / name, dtype="float32") for name in ("out", "merged")}
    found = {name: pipeline.predict(rows, max_new_tokens=4) for name, pipeline in pairs.items()}
    for one, other in zip(found["out"], found["merged"], strict=True):
        assert (one.answer, one.passages) == (other.answer, other.passages)
        assert one.scores == pytest.approx(other.scores, abs=1e-4)
    untrained = RAGPipeline.from_start(tmp_path / "merged", dtype="float32").predict(rows, max_new_tokens=4)
    assert [output.scores for output in untrained] != [output.scores for output in found["merged"]]


@pytest.mark.parametrize(
    ("adapters", "output", "message"),
    [
        (LORA, "out", "is the pair itself; give another folder"),
        (None, "merged", "holds no adapters: its models are whole already"),
    ],
)
def test_nothing_to_merge(tmp_path, adapters, output, message):
    make_trainer(tmp_path / "out", model=save_start(tmp_path / "start"), peft_config=adapters).save_model()
    done = runner.invoke(
        app, ["merge", "--model_name_or_path", str(tmp_path / "out"), "--output_dir", str(tmp_path / output)]
    )
    assert done.exit_code == 2
    assert message in done.output


def test_a_folder_holds_one_runs_models(tmp_path):
    """Runs of other kinds into one folder, one after the other: what is there is the last one's."""
    start = save_start(tmp_path / "start")
    rows = questions().to_list()
    for peft_config, options in ((None, {"loss_type": "ppo"}), (LORA, {}), (LORA, {"shared_base": True}), (None, {})):
        trainer = make_trainer(tmp_path / "out", model=start, peft_config=peft_config, learning_rate=0.1, **options)
        trainer.train()
        trainer.save_model()
        trainer.save_model(str(tmp_path / "alone"))
        folders = (tmp_path / "out", tmp_path / "alone")
        names = [{str(path.relative_to(folder)) for path in folder.rglob("*")} for folder in folders]
        assert names[0] == names[1]
        found, wanted = (RAGPipeline.from_pretrained(folder).predict(rows, max_new_tokens=2) for folder in folders)
        assert found == wanted
        shutil.rmtree(tmp_path / "alone")


def test_a_run_does_not_write_over_its_start(tmp_path):
    start = save_start(tmp_path / "out" / "generator")
    with pytest.raises(ValueError, match="folder generator is the start of the selector, which would be lost"):
        make_trainer(tmp_path / "out", model=start)
    make_trainer(tmp_path / "pair", model=start, peft_config=LORA).save_model()
    with pytest.raises(ValueError, match="output_dir=.*out: its folder generator is the start of the selector"):
        merge_adapters(tmp_path / "pair", tmp_path / "out")
    assert (tmp_path / "out" / "generator" / "model.safetensors").exists()


def test_weights_that_were_not_gathered_are_not_saved(tmp_path):
    trainer = make_trainer(tmp_path / "out")
    trainer.save_model()
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match="sharded weights of the selector were not gathered.*zero3_save_16bit_model"):
        trainer._save(state_dict={})
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == before


def test_the_card_alone_says_nothing_of_weights(tmp_path):
    """A card that is written without weights leaves those of an earlier run with their own options."""
    make_trainer(tmp_path / "out", num_selected=1).save_model()
    make_trainer(tmp_path / "out", num_selected=2).create_model_card()
    assert read_config(tmp_path / "out")["num_selected"] == 1
    make_trainer(tmp_path / "none").create_model_card()
    with pytest.raises(FileNotFoundError, match="dro_config.json does not exist"):
        read_config(tmp_path / "none")
