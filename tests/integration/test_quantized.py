"""QLoRA: adapters on base models whose weights are kept in four or eight bits."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import BitsAndBytesConfig

from dro_trl import RAGPipeline
from dro_trl.lm.generation import generate_answers
from dro_trl.models.loading import load_model
from dro_trl.models.quantised import keep_gradients
from dro_trl.models.saving import load_models, merge_adapters
from dro_trl.recipes import building
from dro_trl.recipes.arguments import parse_recipe
from dro_trl.recipes.training import run_recipe
from dro_trl.recipes.warmup import parse_warmup, run_warmup
from tests.helpers.tiny_models import tiny_tokenizer
from tests.helpers.training import (
    LORA,
    changed,
    gradients,
    make_trainer,
    questions,
    save_start,
    weights_of,
    write_recipe,
)

TOKENS = tiny_tokenizer()
OPTIONS = {"use_peft": True, "lora_target_modules": ["q_proj", "v_proj"], "learning_rate": 1e-2, "num_train_epochs": 1}


def run(tmp_path, **options):
    save_start(tmp_path / "start", hidden_size=64, intermediate_size=128)  # bitsandbytes' blocks have 64 weights.
    return run_recipe(*parse_recipe(["--config", write_recipe(tmp_path, **{**OPTIONS, **options})]))


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("shared", [False, True])
def test_adapters_learn_on_a_quantised_base(tmp_path, bits, shared):
    trainer = run(tmp_path, shared_base=shared, **{f"load_in_{bits}bit": True})
    for role in ("selector", "generator"):
        weights = dict(getattr(trainer.model, role).named_parameters())
        base = weights["base_model.model.model.layers.0.self_attn.q_proj.base_layer.weight"]
        assert base.dtype == {4: torch.uint8, 8: torch.int8}[bits]
        assert not base.requires_grad
        learnt = [weight for name, weight in weights.items() if "lora_B" in name and weight.requires_grad]
        assert learnt
        assert all(weight.any() for weight in learnt)
    quantised = RAGPipeline.from_pretrained(
        tmp_path / "out", quantization_config=BitsAndBytesConfig(**{f"load_in_{bits}bit": True})
    )
    rows = trainer.train_dataset.to_list()
    output = quantised.predict(rows, max_new_tokens=4)
    whole = RAGPipeline.from_pretrained(tmp_path / "out").predict(rows, max_new_tokens=4)
    for one, other in zip(output, whole, strict=True):
        assert len(one.passages) == 2
        assert one.scores != other.scores, "the base has rounded weights in one, and the original ones in the other"


def test_quantised_weights_need_adapters(tmp_path):
    with pytest.raises(ValueError, match="load_in_4bit: true leaves nothing to train, .* add use_peft: true"):
        run(tmp_path, use_peft=False, load_in_4bit=True)


def test_bitsandbytes_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(building, "is_bitsandbytes_available", lambda: False)
    with pytest.raises(ImportError, match=r"load_in_8bit: true needs bitsandbytes; pip install 'dro-trl\[qlora\]'"):
        run(tmp_path, load_in_8bit=True)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_gradients_are_the_same_after_an_evaluation(tmp_path, shared, packed):
    """A processor with AVX512-BF16 packs four-bit layers in an evaluation; `packed` ones were so from the start."""
    start = save_start(tmp_path / "start", hidden_size=64, intermediate_size=128)
    model = load_model(start, {"quantization_config": BitsAndBytesConfig(load_in_4bit=True)})
    if packed:
        with torch.no_grad():
            model(torch.tensor([[5, 6, 7]]))
    trainer = make_trainer(
        tmp_path / "out",
        model=model,
        shared_base=shared,
        peft_config=LORA,
        eval_dataset=questions(),
        processing_class=TOKENS,
    )
    batch = {"rows": questions().to_list()[:2], "draw": 0}
    loss, before = gradients(trainer, dict(batch))
    trainer.evaluate()
    generate_answers(trainer.model.generator, TOKENS, ["Who?"], [questions()[0]["candidates"]], max_new_tokens=2)
    again, after = gradients(trainer, dict(batch))
    assert again == pytest.approx(loss, rel=1e-6)
    assert norms(after) == pytest.approx(norms(before), rel=1e-6)
    assert sum(norm > 0 for name, norm in norms(before).items() if "layers.0" in name) >= 4  # Of both roles' q and v.


def norms(found):
    return {name: float(gradient.norm()) for name, gradient in found.items()}


def test_a_warm_up_learns_on_after_an_evaluation(tmp_path):
    """Evaluating after each step changes nothing in what is learnt."""
    save_start(tmp_path / "start", hidden_size=64, intermediate_size=128)
    learnt = {}
    for strategy in ("no", "steps"):
        lines = {**OPTIONS, "load_in_4bit": True, "teacher": "retriever", "num_selections": None, "lora_dropout": 0.0}
        lines |= {
            "eval_steps": 1,
            "eval_strategy": strategy,
            "eval_dataset_name": str(tmp_path / "train.jsonl"),
            "max_steps": 3,
        }
        path = write_recipe(tmp_path, **lines, output_dir=str(tmp_path / strategy))
        run_warmup("selector", *parse_warmup(["--config", path]))
        learnt[strategy] = load_file(tmp_path / strategy / "adapter" / "adapter_model.safetensors")
    for name, weight in learnt["no"].items():
        torch.testing.assert_close(learnt["steps"][name], weight, rtol=0, atol=1e-6)


@pytest.mark.parametrize("frozen", ["selector", "generator"])
def test_a_frozen_model_in_four_bits_is_saved_resumed_and_merged(tmp_path, frozen):
    options = {
        "model": save_start(tmp_path / "start", hidden_size=64, intermediate_size=128),
        "peft_config": LORA,
        "model_init_kwargs": {"quantization_config": BitsAndBytesConfig(load_in_4bit=True)},
        "save_strategy": "steps",
        "save_steps": 1,
        f"train_{frozen}": False,
    }
    whole, resumed = make_trainer(tmp_path / "out", **options), make_trainer(tmp_path / "out", **options)
    whole.train()
    resumed.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-1"))
    assert changed(weights_of(resumed), weights_of(whole)) == set()
    whole.save_model()
    merge_adapters(tmp_path / "out", tmp_path / "merged")
    rows = whole.train_dataset.to_list()
    pairs = [RAGPipeline.from_pretrained(tmp_path / name, dtype="float32") for name in ("out", "merged")]
    for pipeline in pairs:
        keep_gradients(pipeline.selector)  # Else a processor may round the layers that are packed.
        keep_gradients(pipeline.generator)
    one, other = (pipeline.predict(rows, max_new_tokens=2) for pipeline in pairs)
    assert [output.answer for output in one] == [output.answer for output in other]
    for before, after in zip(one, other, strict=True):
        assert before.scores == pytest.approx(after.scores, abs=1e-3)
    weight = weights_of(whole)[f"{frozen}.model.layers.1.mlp.up_proj.weight"]
    assert weight.dtype == torch.uint8
    other_start = save_start(tmp_path / "start", hidden_size=64, intermediate_size=128, seed=4)
    fresh = make_trainer(tmp_path / "out", **{**options, "model": other_start})
    with pytest.raises(ValueError, match="holds other quantised weights than the run started from: .*layers.0"):
        load_models(fresh.model, tmp_path / "out")
