"""Which models are causal language models: by folders that hold a configuration and no weights, and in memory."""

import json

import pytest
import transformers
from typer.testing import CliRunner

from dro_trl import DROTrainer
from dro_trl.cli.app import app
from dro_trl.models.causal_lm import check_causal
from dro_trl.models.loading import load_model
from tests.helpers.tiny_models import tiny_model, tiny_tokenizer
from tests.helpers.training import LORA, make_trainer, options, questions, save_start, write_recipe

SIZES = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}
TEXT = {**SIZES, "num_key_value_heads": 2, "head_dim": 8}
VISION = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
PICTURES = {"text_config": TEXT, "vision_config": VISION}
RANDOM_HEAD = "has no head that predicts the next token, and a new one would be random"
BOTH_WAYS = "reads both ways"
FAULTY = [
    ("Bert", "BertModel", {}, RANDOM_HEAD),
    ("Bert", "BertForMaskedLM", {}, RANDOM_HEAD),
    ("Bert", "BertLMHeadModel", {}, BOTH_WAYS),
    ("Roberta", "RobertaForCausalLM", {}, BOTH_WAYS),
    ("XLM", "XLMWithLMHeadModel", {}, BOTH_WAYS),
    ("Bert", "BertForSequenceClassification", {}, RANDOM_HEAD),
    ("BertGeneration", "BertGenerationDecoder", {}, BOTH_WAYS),
    ("ModernBert", "ModernBertForMaskedLM", {}, RANDOM_HEAD),
    ("MPNet", "MPNetModel", {}, RANDOM_HEAD),
    ("DebertaV2", "DebertaV2ForSequenceClassification", {}, RANDOM_HEAD),
    ("Llama", "LlamaModel", {}, RANDOM_HEAD),
    ("Llama", "LlamaForSequenceClassification", {}, RANDOM_HEAD),
    ("Qwen2", "Qwen2ForRewardModel", {}, RANDOM_HEAD),
    ("Qwen2", "Qwen2ForTokenClassification", {}, RANDOM_HEAD),
    ("Qwen2", "Qwen2ForCausalLM", {"is_causal": False}, BOTH_WAYS),
    ("Gemma3Text", "Gemma3TextModel", {"use_bidirectional_attention": True}, RANDOM_HEAD),
    ("Gemma3Text", "Gemma3ForCausalLM", {"use_bidirectional_attention": True}, BOTH_WAYS),
    ("GPT2", "GPT2Model", {}, RANDOM_HEAD),
    ("T5", "T5ForConditionalGeneration", {}, "is an encoder with a decoder"),
    ("Bart", "BartForConditionalGeneration", {}, "is an encoder with a decoder"),
    ("Llava", "LlavaForConditionalGeneration", {}, "has no causal language model of the type llava"),
    ("ViT", "ViTForImageClassification", {}, RANDOM_HEAD),
]
CAUSAL = [
    *(("Llama", architecture, {}) for architecture in ("LlamaForCausalLM", "LLaMAForCausalLM", None)),
    ("GPT2", "GPT2LMHeadModel", {}),
    ("GPTNeoX", "GPTNeoXForCausalLM", {}),  # Its configuration says `is_decoder: false`, and means nothing by it.
    ("Bert", "BertLMHeadModel", {"is_decoder": True}),
    ("Bart", "BartForCausalLM", {"is_decoder": True, "is_encoder_decoder": False}),
    ("OpenAIGPT", "OpenAIGPTLMHeadModel", {}),
    ("CTRL", "CTRLLMHeadModel", {}),
    ("Mamba", "MambaForCausalLM", {}),
    ("Gemma3", "Gemma3ForConditionalGeneration", PICTURES),
    ("Qwen3_5", "Qwen3_5ForConditionalGeneration", {}),
    ("Phi3", "Phi3ForCausalLM", {"pad_token_id": 0}),
]


def write_config(folder, family, architecture, given):
    config = getattr(transformers, f"{family}Config")(**given)
    config.architectures = architecture and [architecture]
    config.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(("family", "architecture", "given", "fault"), FAULTY, ids=[str(c[1]) for c in FAULTY])
def test_a_folder_of_another_kind_is_refused_before_weights_are_read(tmp_path, family, architecture, given, fault):
    folder = write_config(tmp_path / "start", family, architecture, given)
    with pytest.raises(ValueError, match=f"start: .*{fault}.*causal language models") as found:
        load_model(folder)
    said = str(found.value)
    assert said.startswith(folder)
    assert architecture in said
    assert "\n" not in said


@pytest.mark.parametrize(("family", "architecture", "given"), CAUSAL)
def test_a_folder_of_a_causal_language_model_is_not(tmp_path, family, architecture, given):
    check_causal(write_config(tmp_path / "start", family, architecture, given))


def test_an_unknown_type_is_one_line(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "xyz", "architectures": ["XyzForCausalLM"]}))
    with pytest.raises(ValueError, match=r"model type `xyz`.*causal language models") as found:
        load_model(str(tmp_path))
    assert "\n" not in str(found.value)


def test_an_adapter_is_what_its_base_is(tmp_path):
    base = write_config(tmp_path / "base", "Llama", "LlamaForSequenceClassification", {})
    adapter = {"base_model_name_or_path": base, "peft_type": "LORA"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(adapter))
    with pytest.raises(ValueError, match="LlamaForSequenceClassification"):
        check_causal(str(tmp_path))
    write_config(tmp_path / "base", "Llama", "LlamaForCausalLM", {})
    check_causal(str(tmp_path))
    (tmp_path / "adapter_config.json").write_text(json.dumps({**adapter, "task_type": "SEQ_CLS"}))
    with pytest.raises(ValueError, match=r"an adapter for another task \(task_type SEQ_CLS\)"):
        check_causal(str(tmp_path))


@pytest.mark.parametrize("family", ["BertLMHeadModel", "LlamaForSequenceClassification", "LlamaModel", "T5Model"])
def test_models_in_memory_are_asked_as_well(tmp_path, family):
    model_class = getattr(transformers, family)
    sizes = {"d_model": 16, "num_layers": 1} if family == "T5Model" else SIZES
    model = model_class(model_class.config_class(**sizes, pad_token_id=0))
    for given in ({"model": model}, {"model": None, "generator": model}):
        with pytest.raises(ValueError, match=f"the model in memory: {family} .*causal language models"):
            make_trainer(tmp_path, **given)


def test_causal_models_in_memory_pass_with_adapters_or_of_a_class_of_ones_own():
    class Mine(transformers.LlamaForCausalLM):
        pass

    model = tiny_model("llama", tiny_tokenizer())
    check_causal(Mine(model.config))
    from peft import get_peft_model

    check_causal(get_peft_model(model, LORA))


def test_a_faulty_generator_is_found_before_the_selector_is_loaded(tmp_path):
    selector = write_config(tmp_path / "selector", "Llama", "LlamaForCausalLM", {})  # Has no weights.
    generator = write_config(tmp_path / "generator", "Bert", "BertModel", {})
    with pytest.raises(ValueError, match="generator: BertModel"):
        DROTrainer(selector, generator, options(tmp_path), questions(), processing_class=tiny_tokenizer())


def test_a_model_of_pictures_and_text_learns(tmp_path):
    """Its language model is what texts go through; pictures there are none."""
    tokens = tiny_tokenizer()
    text = {**TEXT, "vocab_size": len(tokens), "pad_token_id": tokens.pad_token_id}
    vision = {**VISION, "image_size": 28, "patch_size": 14}
    special = {"boi_token_index": 3, "eoi_token_index": 4, "image_token_index": 5}
    config = transformers.Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4, **special)
    transformers.Gemma3ForConditionalGeneration(config).save_pretrained(tmp_path / "start")
    tokens.save_pretrained(tmp_path / "start")
    trainer = make_trainer(tmp_path / "out", model=str(tmp_path / "start"), peft_config=LORA)
    trainer.train()
    learnt = [w for name, w in trainer.model.named_parameters() if "lora_B" in name and "language_model" in name]
    assert learnt
    assert all(weight.any() for weight in learnt)


@pytest.mark.parametrize("command", [["train"], ["warmup", "selector"]])
def test_the_command_line_says_it_in_one_line(tmp_path, command):
    start = save_start(tmp_path / "start")
    write_config(start, "Bert", "BertForSequenceClassification", {})
    recipe = write_recipe(tmp_path, **({"num_selections": None} if command[0] == "warmup" else {}))
    result = CliRunner().invoke(app, [*command, "--config", recipe])
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert f"error: {start}: BertForSequenceClassification (bert) has no head" in result.stderr
