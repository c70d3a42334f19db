"""Every option of Trainer is heeded or refused, and stands in the documentation as what it is."""

import re
from dataclasses import MISSING, fields
from pathlib import Path

import peft
import pytest
import torch
from peft import LoraConfig
from transformers import TrainingArguments
from trl import ModelConfig, ScriptArguments

from dro_trl import DROConfig
from dro_trl.recipes.options import UNUSED
from dro_trl.recipes.warmup import parse_warmup, run_warmup
from dro_trl.trainer.refused_options import ACCELERATOR, ADAPTERS, REFUSED, check_adapter
from tests.helpers.tiny_models import tiny_model, tiny_tokenizer
from tests.helpers.training import make_trainer, save_start, write_recipe

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "options.md").read_text(encoding="utf-8")
ONE_LAYER = {"target_modules": ["q_proj"], "task_type": "CAUSAL_LM"}


def named(heading: str) -> set[str]:
    """Return the options in the first column of the table under a heading."""
    rows = [line for line in PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0].splitlines() if "|" in line]
    return {name for row in rows[2:] for name in re.findall(r"`(\w+)`", row.split("|")[1])}


def test_every_option_of_this_transformers_is_classified():
    """A new version's new option fails here until it is tried and stands in docs/options.md."""
    options = {f.name for f in fields(TrainingArguments) if f.init}
    refused, heeded = named("Refused"), named("Heeded")
    assert options - refused - heeded == set()
    assert refused & heeded == {"do_eval"}  # Refused where nothing evaluates.
    in_part = {"accelerator_config", "do_eval", "eval_strategy", "optim"}
    assert refused - in_part == set(REFUSED)


@pytest.mark.parametrize("name", sorted(REFUSED.keys() & TrainingArguments.__dataclass_fields__.keys()))
def test_what_is_refused_is_refused_and_its_default_is_not(tmp_path, name):
    """A default that a version of transformers changes fails here as well."""
    field = DROConfig.__dataclass_fields__[name]
    default = field.default if field.default_factory is MISSING else field.default_factory()
    allowed, why = REFUSED[name]
    assert default in allowed
    others = {bool: not allowed[0], list: ["loss"], str: "group_by_length", float: 0.1, int: 5}
    value = {"include_num_input_tokens_seen": "all", "label_names": ["labels"]}.get(
        name, others.get(type(allowed[0]), 5.0)
    )
    with pytest.raises(ValueError, match=re.escape(f"{name}={value!r} {why}; leave it {allowed[0]!r}")):
        DROConfig(str(tmp_path), use_cpu=True, **{name: value})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        *[
            (
                {"accelerator_config": {name: not value}},
                f"accelerator_config.{name}={not value!r} would share .* leave it",
            )
            for name, value in ACCELERATOR.items()
        ],
        ({"optim": "galore_adamw"}, "optim='galore_adamw' makes groups .* such as 'adamw_torch'"),
        ({"optim": "adalomo"}, "optim='adalomo' makes groups"),
        ({"do_eval": True}, "do_eval=True and eval_strategy='no' never evaluate"),
    ],
)
def test_what_is_refused_in_part(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        DROConfig(str(tmp_path), use_cpu=True, **options)
    DROConfig(str(tmp_path), use_cpu=True, optim="adafactor", do_eval=True, eval_strategy="epoch")


def test_every_key_of_trl_is_classified():
    """`ModelConfig` is heeded whole: a key that a new version adds is tried first."""
    heeded = set(
        "model_name_or_path model_revision dtype attn_implementation use_peft lora_r lora_alpha lora_dropout "
        "lora_target_modules lora_target_parameters lora_modules_to_save lora_task_type use_rslora use_dora "
        "load_in_8bit load_in_4bit bnb_4bit_quant_type use_bnb_nested_quant bnb_4bit_quant_storage "
        "trust_remote_code".split()
    )
    assert {f.name for f in fields(ModelConfig)} <= heeded
    scripts = {"dataset_name", "dataset_train_split", "dataset_test_split", "dataset_streaming"}
    assert {f.name for f in fields(ScriptArguments)} - scripts <= UNUSED


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (peft.PromptTuningConfig(num_virtual_tokens=2), "kind PROMPT_TUNING cannot be used here: its virtual tokens"),
        (peft.PrefixTuningConfig(num_virtual_tokens=2), "kind PREFIX_TUNING .* use another, such as LoraConfig"),
        (peft.AdaLoraConfig(total_step=10, **ONE_LAYER), "kind ADALORA .*: its ranks are allocated by calls"),
        (peft.PolyConfig(**ONE_LAYER), "kind POLY .*: it wants a task id"),
        (LoraConfig(target_modules=["q_proj"], task_type="SEQ_CLS"), "task_type='SEQ_CLS' .* leave it None"),
        (
            LoraConfig(alora_invocation_tokens=[5], **ONE_LAYER),
            r"alora_invocation_tokens=\[5\] .* nothing would be learnt",
        ),
        (LoraConfig(init_lora_weights="eva", **ONE_LAYER), "init_lora_weights='eva' .* leave it True"),
        (LoraConfig(layer_replication=[(0, 1), (0, 2)], **ONE_LAYER), "peft_config.layer_replication="),
    ],
    ids=lambda value: getattr(value, "peft_type", None),
)
def test_adapters_that_a_pair_cannot_have(tmp_path, config, message):
    with pytest.raises(ValueError, match=message):
        make_trainer(tmp_path, peft_config=config)


def test_the_kinds_that_are_refused_are_those_that_fail():
    assert {"ADALORA", "POLY", "XLORA"} <= ADAPTERS.keys() & {kind.value for kind in peft.PeftType}
    check_adapter(None)


@pytest.mark.parametrize(
    "config",
    [
        LoraConfig(r=2, init_lora_weights="pissa", **ONE_LAYER),
        LoraConfig(r=2, init_lora_weights=False, **ONE_LAYER),
        peft.IA3Config(feedforward_modules=[], **ONE_LAYER),
        peft.FourierFTConfig(n_frequency=8, **ONE_LAYER),
    ],
    ids=["changes the base", "starts at random", "IA3", "starts at random, FourierFT"],
)
def test_the_kl_term_is_to_the_start_whatever_the_adapter(tmp_path, config):
    """Switched off, the first and the second leave another model than the one that training started from."""
    trainer = make_trainer(tmp_path, peft_config=config, kl_coef=0.1, learning_rate=0.05)
    ids, pair = torch.tensor([[5, 6, 7]]), trainer.model.eval()
    with torch.no_grad():
        start = pair.selector(input_ids=ids).logits.clone()
    trainer.train()
    with torch.no_grad():
        torch.testing.assert_close(pair.reference(input_ids=ids).logits, start)
        assert not torch.allclose(pair.eval().selector(input_ids=ids).logits, start, atol=1e-3)


def test_plain_lora_needs_no_second_selector(tmp_path):
    assert make_trainer(tmp_path, peft_config=LoraConfig(**ONE_LAYER), kl_coef=0.1).model.reference is None
    assert make_trainer(tmp_path, model=tiny_model("llama", tiny_tokenizer()), kl_coef=0.1).model.reference is not None


def test_a_warm_up_refuses_them_too(tmp_path):
    save_start(tmp_path / "start")
    path = write_recipe(tmp_path, num_selections=None, use_peft=True, lora_task_type="SEQ_CLS")
    with pytest.raises(ValueError, match="peft_config.task_type='SEQ_CLS' cannot be used here"):
        run_warmup("selector", *parse_warmup(["--config", path]))
