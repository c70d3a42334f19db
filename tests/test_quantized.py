"""QLoRA: adapters on base models whose weights are kept in four or eight bits."""

import pytest
import torch
from transformers import BitsAndBytesConfig

from dro_trl import RAGPipeline, recipe
from tests.training import save_start, write_recipe

OPTIONS = {"use_peft": True, "lora_target_modules": ["q_proj", "v_proj"], "learning_rate": 1e-2, "num_train_epochs": 1}


def run(tmp_path, **options):
    save_start(tmp_path / "start", hidden_size=64, intermediate_size=128)  # bitsandbytes' blocks have 64 weights.
    return recipe.run_recipe(*recipe.parse_recipe(["--config", write_recipe(tmp_path, **{**OPTIONS, **options})]))


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
    monkeypatch.setattr(recipe, "is_bitsandbytes_available", lambda: False)
    with pytest.raises(ImportError, match=r"load_in_8bit: true needs bitsandbytes; pip install 'dro-trl\[qlora\]'"):
        run(tmp_path, load_in_8bit=True)
