"""Where models run and in which number format, for machines of every kind: what each has is said, not looked for."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from dro_trl import RAGPipeline
from dro_trl.cli.app import app
from dro_trl.lm import devices
from dro_trl.lm.devices import Hardware, choose_device, choose_dtype, choose_trained_dtype, describe, find_hardware
from dro_trl.models.files import CONFIG_NAME
from dro_trl.recipes.arguments import parse_recipe
from dro_trl.recipes.studies.parsing import parse_study
from dro_trl.recipes.training import run_recipe
from dro_trl.recipes.warmup import parse_warmup, run_warmup
from dro_trl.trainer.dro_config import DROConfig
from tests.helpers.training import LORA, make_trainer, save_start, write_recipe

PLAIN, FAST = Hardware(), Hardware(processor_bfloat16=True)
H100 = Hardware("cuda", ("NVIDIA H100", "NVIDIA H100"), bfloat16=True)
T4 = Hardware("cuda", ("Tesla T4",), processor_bfloat16=True)
APPLE = Hardware("mps", ("mps",))
CPU, CUDA = torch.device("cpu"), torch.device("cuda:0")


@pytest.mark.parametrize(
    ("wanted", "hardware", "device", "number_format"),
    [
        ("auto", PLAIN, "cpu", "float32"),
        ("auto", FAST, "cpu", "bfloat16"),
        ("auto", H100, "cuda:0", "bfloat16"),
        ("auto", T4, "cuda:0", "float32"),
        ("auto", APPLE, "mps:0", "float32"),
        ("cpu", H100, "cpu", "float32"),
        ("cpu", T4, "cpu", "bfloat16"),
        ("cuda", H100, "cuda", "bfloat16"),
        ("cuda:1", H100, "cuda:1", "bfloat16"),
        (torch.device("cuda", 1), H100, "cuda:1", "bfloat16"),
    ],
)
def test_what_a_machine_has_is_used(wanted, hardware, device, number_format):
    found = choose_device(wanted, hardware)
    assert str(found) == device
    assert choose_dtype("auto", found, hardware) == getattr(torch, number_format)
    for said in ("float32", "bfloat16", "float16", torch.float16, "torch.float64"):
        assert str(choose_dtype(said, found, hardware)).removeprefix("torch.") == str(said).removeprefix("torch.")


@pytest.mark.parametrize("wanted", ["cudda", "cuda:2", "cuda:-1", "cuda:x", "mps", "", "CPU", "cpu:1", "0", "meta"])
@pytest.mark.parametrize(("hardware", "has"), [(PLAIN, "only cpu"), (H100, "cpu and cuda:0 to cuda:1")])
def test_a_device_that_is_not_there_is_named(wanted, hardware, has):
    with pytest.raises(ValueError, match=f"device='{wanted}' is not one of this machine, which has {has}; use one"):
        choose_device(wanted, hardware)


@pytest.mark.parametrize("wanted", ["float31", "int8", "float8_e4m3fn", "bf16", "", "nn", torch.int64])
def test_what_is_no_number_format_is_named(wanted):
    with pytest.raises(
        ValueError, match="is no number format of weights; use one of auto, float32, bfloat16, float16"
    ):
        choose_dtype(wanted, CPU, PLAIN)


def test_weights_that_are_trained_themselves_are_float32(monkeypatch):
    for hardware, device, under_adapters in ((H100, CUDA, torch.bfloat16), (T4, CUDA, torch.float32)):
        assert choose_trained_dtype("auto", device, adapters=False, hardware=hardware) == torch.float32
        assert choose_trained_dtype("auto", device, adapters=True, hardware=hardware) == under_adapters
        assert choose_trained_dtype("bfloat16", device, adapters=False, hardware=hardware) == torch.bfloat16
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert choose_trained_dtype("auto", CUDA, adapters=True, hardware=H100) == torch.float32


def test_it_is_said_in_one_line():
    assert describe(CPU, torch.float32, H100) == "on the CPU in float32"
    assert describe(torch.device("cuda:1"), torch.bfloat16, H100) == "on cuda:1 (NVIDIA H100) in bfloat16"
    assert describe(torch.device("cuda"), torch.float16, T4) == "on cuda:0 (Tesla T4) in float16"


def test_this_machine_is_described():
    found = find_hardware()
    assert len(found.names) == (torch.accelerator.device_count() if torch.accelerator.is_available() else 0)
    assert (found.accelerator is None) == (not found.names)


@pytest.fixture(params=[False, True], ids=["plain", "bfloat16"])
def processor(request, monkeypatch):
    """A machine without an accelerator, whose processor multiplies bfloat16 or does not."""
    monkeypatch.setattr(devices, "find_hardware", lambda: Hardware(processor_bfloat16=request.param))
    return request.param


UNSAID = {"dtype": None, "bf16": None, "use_cpu": None, "lora_target_modules": ["q_proj", "v_proj"]}


@pytest.mark.parametrize("adapters", [False, True])
def test_a_recipe_that_says_nothing_trains_in_what_there_is(tmp_path, processor, adapters, capsys):
    save_start(tmp_path / "start")
    path = write_recipe(tmp_path, **UNSAID, use_peft=adapters, save_strategy="steps", save_steps=1)
    trainer = run_recipe(*parse_recipe(["--config", path]))
    half = "bfloat16" if processor and adapters else "float32"
    kinds = {"adapters": set(), "others": set()}
    for name, weight in trainer.model.named_parameters():
        kinds["adapters" if "lora_" in name else "others"].add(str(weight.dtype).removeprefix("torch."))
    assert kinds == {"adapters": {"float32"} if adapters else set(), "others": {half}}
    assert trainer.args.bf16 == processor
    said = {(False, False): "float32", (False, True): "float32", (True, True): "bfloat16"}
    said[True, False] = "bfloat16 (weights in float32)"
    assert f"Training on the CPU in {said[processor, adapters]}\n" in capsys.readouterr().out
    run = json.loads((tmp_path / "out" / "checkpoint-1" / "training_run.json").read_text())
    assert (run["bf16"], run["model_init_kwargs"]["dtype"]) == (processor, half)


def test_a_run_does_not_go_on_in_another_number_format(tmp_path, monkeypatch):
    save_start(tmp_path / "start")
    path = write_recipe(tmp_path, **UNSAID, use_peft=True, save_strategy="steps", save_steps=1)
    monkeypatch.setattr(devices, "find_hardware", lambda: FAST)
    run_recipe(*parse_recipe(["--config", path]))
    monkeypatch.setattr(devices, "find_hardware", lambda: PLAIN)
    with pytest.raises(ValueError, match=r"bf16 was True and is now False; .*bfloat16.* and is now .*float32"):
        run_recipe(*parse_recipe(["--config", path, "--resume"]))


def test_a_warm_up_likewise(tmp_path, processor, capsys):
    save_start(tmp_path / "start")
    lines = {**UNSAID, "num_selections": None, "teacher": "likelihood", "max_steps": 1}
    trainer = run_warmup("selector", *parse_warmup(["--config", write_recipe(tmp_path, **lines)]))
    assert trainer.args.bf16 == processor
    assert {weight.dtype for weight in trainer.model.parameters()} == {torch.float32}
    kept = json.loads((tmp_path / "out" / "teacher_likelihood.train_dataset.json").read_text())
    assert kept["of"]["loading"]["dtype"] == ("bfloat16" if processor else "float32")
    assert "Training on the CPU in " in capsys.readouterr().out


def test_what_is_said_is_done(tmp_path, processor):
    save_start(tmp_path / "start")
    path = write_recipe(tmp_path, use_cpu=None, dtype="bfloat16", bf16=False)
    trainer = run_recipe(*parse_recipe(["--config", path]))
    assert {weight.dtype for weight in trainer.model.parameters()} == {torch.bfloat16}
    assert not trainer.args.bf16


def test_a_program_asks_for_it(tmp_path, processor):
    """Without a word it computes in float32, and a model in memory keeps its weights in any case."""
    start = save_start(tmp_path / "start")
    assert DROConfig(str(tmp_path)).bf16 is False
    given = {"peft_config": LORA, "bf16": None, "model_init_kwargs": {"dtype": "auto"}}
    trainer = make_trainer(tmp_path / "out", model=start, **given)
    assert trainer.args.bf16 == processor
    assert trainer.model.selector.base_model.model.dtype == (torch.bfloat16 if processor else torch.float32)
    model = AutoModelForCausalLM.from_pretrained(start, dtype=torch.float64)
    kept = make_trainer(tmp_path / "out", model=model, processing_class=trainer.processing_class, **given)
    assert kept.model.selector.base_model.model.dtype == torch.float64


def test_a_pair_is_used_likewise(tmp_path, processor):
    start = save_start(tmp_path / "start")
    make_trainer(tmp_path / "pair", model=start, max_steps=1).save_model()
    pair = RAGPipeline.from_pretrained(tmp_path / "pair")
    assert pair.selector.dtype == pair.generator.dtype == (torch.bfloat16 if processor else torch.float32)
    assert (
        RAGPipeline.from_pretrained(tmp_path / "pair", dtype=torch.float32, device="cpu").selector.dtype
        == torch.float32
    )
    for wrong, fault in (({"device": "cuda:7"}, "device='cuda:7' is not"), ({"dtype": "int8"}, "dtype='int8' is no")):
        with pytest.raises(ValueError, match=fault):
            RAGPipeline.from_pretrained(tmp_path / "pair", **wrong)


@pytest.mark.parametrize(("option", "value"), [("device", "cudda"), ("device", "cuda:7"), ("dtype", "float31")])
def test_a_command_says_it_in_one_line_before_it_loads_anything(tmp_path, option, value):
    """Neither the pair nor the index nor the questions are whole."""
    save_start(tmp_path / "start")
    for name in (CONFIG_NAME, "segments_1", "none.jsonl"):
        (tmp_path / name).write_text("?")
    dataset = str(tmp_path / "none.jsonl")
    commands = [
        ["evaluate", "--model_name_or_path", str(tmp_path), "--dataset_name", dataset, f"--{option}", value],
        ["ask", "Who?", "--model_name_or_path", str(tmp_path), "--index_dir", str(tmp_path), f"--{option}", value],
    ]
    if option == "dtype":
        commands.append(["train", "--config", write_recipe(tmp_path, dtype=value)])
        commands.append(["warmup", "selector", "--config", write_recipe(tmp_path, dtype=value, num_selections=None)])
    for command in commands:
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 2, result.output
        assert result.stderr.startswith(f"error: {option}='{value}' is n")
        assert result.stderr.count("\n") == 1


def test_a_study_decides_once(tmp_path, processor):
    lines = {"methods": {"dro": {}}, "eval_dataset_name": "rows.jsonl", "output_dir": str(tmp_path / "study")}
    path = write_recipe(tmp_path, **lines)
    study = parse_study(["--config", path])
    assert (study.eval_device, study.eval_dtype) == ("cpu", "bfloat16" if processor else "float32")
    with pytest.raises(ValueError, match=r"recipe\.yaml: eval_device='cuda:7' is not one of this machine"):
        parse_study(["--config", path, "--eval_device", "cuda:7"])


@pytest.mark.parametrize("peft", [False, True])
def test_an_estimate_counts_the_format_that_training_takes(tmp_path, processor, peft):
    save_start(tmp_path / "start")
    path, output = write_recipe(tmp_path, **UNSAID, use_peft=peft), tmp_path / "estimate.json"
    result = CliRunner().invoke(app, ["estimate", "--config", path, "--output", str(output)])
    assert result.exit_code == 0, result.output
    found = json.loads(output.read_text())
    assert found["precision"]["weights"] == (2 if processor and peft else 4)
    assert found["precision"]["compute"] == (2 if processor else 4)
    assert not found["backend"]["gpu"]
