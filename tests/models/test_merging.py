"""A merged model computes what its base and adapter computed together."""

import copy
from pathlib import Path

import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel, PrefixTuningConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from dro_trl.models.merging import save_whole
from dro_trl.models.quantised import keep_gradients
from dro_trl.models.reading import read_model
from tests.helpers.tiny_models import tiny_tokenizer
from tests.helpers.training import save_start

IDS = torch.tensor([[5, 7, 6, 8, 9, 3, 4, 100, 200, 5]])


def lora(*modules, **options):
    return LoraConfig(r=2, lora_alpha=4, target_modules=list(modules), task_type="CAUSAL_LM", **options)


ADAPTERS = {
    "LoRA": lora("q_proj", "v_proj"),
    "rsLoRA": lora("q_proj", "down_proj", use_rslora=True),
    "DoRA": lora("q_proj", "v_proj", use_dora=True),
    "biases": lora("q_proj", bias="all"),
    "embedding": lora("q_proj", "embed_tokens"),
    "head": lora("q_proj", "lm_head"),
    "embedding and head": lora("embed_tokens", "lm_head"),
    "DoRA embedding": lora("embed_tokens", use_dora=True),
    "DoRA head": lora("lm_head", use_dora=True),
    "embedding, kept tied": lora("embed_tokens", ensure_weight_tying=True),
    "embedding to save": lora("q_proj", modules_to_save=["embed_tokens"]),
    "head to save": lora("q_proj", modules_to_save=["lm_head"]),
    "both to save": lora("q_proj", modules_to_save=["embed_tokens", "lm_head"]),
    "head to save, kept tied": lora("q_proj", modules_to_save=["embed_tokens"], ensure_weight_tying=True),
    "norm to save": lora("q_proj", modules_to_save=["norm"]),
    "trained tokens": lora("q_proj", trainable_token_indices=[5, 7]),
    "trained tokens of the head": lora("q_proj", trainable_token_indices={"lm_head": [5, 7]}),
    "IA3": IA3Config(target_modules=["q_proj", "down_proj"], feedforward_modules=["down_proj"], task_type="CAUSAL_LM"),
}


def save_adapter(base, config, folder, **loading):
    """Write an adapter whose weights are all drawn at random, and return the model."""
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base, **loading), copy.deepcopy(config))
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.add_(torch.randn_like(parameter) * 0.3)
    model.eval().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return model


def logits(model):
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits.float()


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bases")
    sizes = {"hidden_size": 64, "intermediate_size": 128}  # bitsandbytes' blocks have 64 weights.
    found = {tied: save_start(folder / str(tied), tie_word_embeddings=tied, **sizes) for tied in (False, True)}
    for bits in (4, 8):
        packed = BitsAndBytesConfig(**{f"load_in_{bits}bit": True})
        AutoModelForCausalLM.from_pretrained(found[False], quantization_config=packed).save_pretrained(folder / "q")
        tiny_tokenizer().save_pretrained(folder / "q")
        found[bits] = str((folder / "q").rename(folder / f"in {bits} bits"))
    return found


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("kind", ADAPTERS)
def test_the_function_is_kept(tmp_path, bases, kind, tied):
    expected = logits(save_adapter(bases[tied], ADAPTERS[kind], tmp_path / "adapter"))
    assert (expected - logits(AutoModelForCausalLM.from_pretrained(bases[tied]))).abs().max() > 1
    (tmp_path / "whole").mkdir()
    save_whole(tmp_path / "adapter", tmp_path / "whole", "float32")
    torch.testing.assert_close(
        logits(AutoModelForCausalLM.from_pretrained(tmp_path / "whole")), expected, atol=1e-4, rtol=0
    )
    assert not list((tmp_path / "whole").glob("adapter*"))
    torch.testing.assert_close(logits(read_model(str(tmp_path / "adapter"))), expected, atol=0, rtol=0)


@pytest.mark.parametrize("kind", ["LoRA", "embedding, kept tied", "both to save", "trained tokens"])
def test_what_is_alike_stays_one_matrix(tmp_path, bases, kind):
    """Two matrices are written only where they differ."""
    save_adapter(bases[True], ADAPTERS[kind], tmp_path / "adapter")
    (tmp_path / "whole").mkdir()
    save_whole(tmp_path / "adapter", tmp_path / "whole", "float32")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "whole")
    tied = model.config.tie_word_embeddings
    read, written = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    assert tied == (read is written)
    assert tied == torch.equal(read, written)
    assert tied == ("lm_head.weight" not in load_file(tmp_path / "whole" / "model.safetensors"))
    assert tied == (kind != "both to save")


@pytest.mark.parametrize("kind", ["LoRA", "DoRA", "head", "norm to save"])
def test_packed_weights_are_unpacked(tmp_path, bases, kind):
    """What is right is what the packed layers give in training mode, where no processor rounds further."""
    model = save_adapter(bases[4], ADAPTERS[kind], tmp_path / "adapter", dtype=torch.float32)
    expected = logits(keep_gradients(model))
    (tmp_path / "whole").mkdir()
    save_whole(tmp_path / "adapter", tmp_path / "whole", "float32")
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "whole")
    assert {parameter.dtype for parameter in whole.parameters()} == {torch.float32}
    torch.testing.assert_close(logits(whole), expected, atol=1e-4, rtol=0)
    rounded = 0.1 if kind == "DoRA" else 0.5  # As a processor packs the layers that are not trained.
    torch.testing.assert_close(logits(read_model(str(tmp_path / "adapter"))), expected, atol=rounded, rtol=0)


def test_a_packed_model_without_an_adapter_is_unpacked(tmp_path, bases):
    expected = logits(keep_gradients(AutoModelForCausalLM.from_pretrained(bases[4], dtype=torch.float32)))
    save_whole(Path(bases[4]), tmp_path, "float32")
    torch.testing.assert_close(logits(AutoModelForCausalLM.from_pretrained(tmp_path)), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("kind", ["LoRA", "DoRA", "embedding"])
def test_other_formats(tmp_path, bases, kind, dtype):
    save_adapter(bases[True], ADAPTERS[kind], tmp_path / "adapter")
    (tmp_path / "whole").mkdir()
    save_whole(tmp_path / "adapter", tmp_path / "whole", dtype)
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "whole", dtype="auto")
    assert whole.dtype == getattr(torch, dtype)
    expected = logits(
        PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(bases[True]), tmp_path / "adapter")
    )
    assert (logits(whole) - expected).abs().max() < 0.1 * expected.abs().max()


def test_what_cannot_be_merged_is_refused_before_anything_is_written(tmp_path, bases):
    save_adapter(bases[8], ADAPTERS["LoRA"], tmp_path / "8", dtype=torch.float32)
    prefix = PrefixTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM")
    save_adapter(bases[True], prefix, tmp_path / "prefix")
    (tmp_path / "whole").mkdir()
    for name, message in (
        ("8", "8: merging would change what the model computes"),
        ("prefix", "prefix cannot be merged into a whole model .*PREFIX_TUNING is no part of weights"),
    ):
        with pytest.raises(ValueError, match=message):
            save_whole(tmp_path / name, tmp_path / "whole", "float32")
        assert not list((tmp_path / "whole").iterdir())
