"""A pair of two adapters on one base is loaded with the base once, and is the same as two models to the last bit."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from peft import LoraConfig, get_peft_model

from dro_trl import RAGPipeline
from dro_trl.models import loading
from dro_trl.models.adapters import AdapterView
from dro_trl.models.loading import load_model
from dro_trl.models.reading import fit_one_base
from tests.helpers.training import LORA, make_trainer, questions, save_start


def save_adapter(folder, base, seed=0, **options):
    """Write an adapter of random weights, none of them zero, and return its folder."""
    config = LoraConfig(**{**LORA.to_dict(), "runtime_config": LORA.runtime_config, **options})
    model = get_peft_model(load_model(base), config)
    chance = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        if "lora_" in name:
            weight.data.normal_(std=0.3, generator=chance)
    model.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """The folder of a pair that was trained as two models with an adapter each, of other layers and sizes."""
    folder = tmp_path_factory.mktemp("pair")
    start = save_start(folder / "start")
    trainer = make_trainer(folder / "out", model=start, generator_name_or_path=start, peft_config=LORA)
    trainer.save_model()
    save_adapter(folder / "out" / "selector", start, 1, r=3, target_modules=["q_proj", "down_proj"])
    save_adapter(folder / "out" / "generator", start, 2, use_rslora=True)
    return folder / "out"


def apart(folder, monkeypatch, **options):
    """Load the pair as two models."""
    with monkeypatch.context() as patched:
        patched.setattr(loading, "fit_one_base", lambda sources: False)
        return RAGPipeline.from_pretrained(folder, **options)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_one_base_is_two_models_to_the_last_bit(pair, monkeypatch, dtype):
    one, two = RAGPipeline.from_pretrained(pair, dtype=dtype), apart(pair, monkeypatch, dtype=dtype)
    assert one.selector.model is one.generator.model
    assert not isinstance(two.selector, AdapterView)
    rows = questions().to_list()
    assert one.predict(rows, max_new_tokens=4) == two.predict(rows, max_new_tokens=4)
    input_ids = torch.tensor([[5, 6, 7, 8]])
    logits = {}
    for role in ("selector", "generator", "selector"):
        with torch.no_grad():
            logits[role], wanted = (getattr(p, role)(input_ids=input_ids).logits for p in (one, two))
        assert torch.equal(logits[role], wanted)
    assert not torch.equal(logits["selector"], logits["generator"])


def test_threads_take_turns(pair, monkeypatch):
    pipeline, rows = RAGPipeline.from_pretrained(pair, dtype="float32"), questions().to_list()
    wanted = apart(pair, monkeypatch, dtype="float32").predict(rows, max_new_tokens=4, batch_size=1)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda i: pipeline.predict([rows[i % 6]], max_new_tokens=4)[0], range(24)))
    assert found == wanted * 4


def test_the_start_is_loaded_once(pair):
    start = RAGPipeline.from_start(pair, dtype="float32")
    assert start.selector is start.generator


@pytest.mark.parametrize(
    "options",
    [
        {"use_dora": True},
        {"bias": "all"},
        {"modules_to_save": ["lm_head"]},
        {"trainable_token_indices": [1, 2]},
        {"target_modules": ["q_proj", "embed_tokens"]},
        {"layer_replication": [(0, 1), (0, 1)]},
        {"init_lora_weights": "pissa"},
        {"target_parameters": ["lm_head.weight"]},
    ],
    ids=lambda options: next(iter(options)),
)
def test_an_adapter_that_changes_more_has_a_base_of_its_own(tmp_path, options):
    base = save_start(tmp_path / "base")
    plain = save_adapter(tmp_path / "plain", base)
    other = save_adapter(tmp_path / "other", base, **options)
    assert fit_one_base([plain, plain])
    assert not fit_one_base([plain, other])


def test_other_bases_revisions_and_whole_models_are_loaded_by_themselves(tmp_path):
    base, second = save_start(tmp_path / "base"), save_start(tmp_path / "second")
    one, other = save_adapter(tmp_path / "one", base), save_adapter(tmp_path / "other", second)
    assert not fit_one_base([one, other])
    assert not fit_one_base([one, base])
    config = tmp_path / "other" / "adapter_config.json"
    config.write_text(json.dumps({**json.loads((tmp_path / "one" / "adapter_config.json").read_text()), "r": 2}))
    assert fit_one_base([one, other])
    config.write_text(json.dumps({**json.loads(config.read_text()), "revision": "v2"}))
    assert not fit_one_base([one, other])


@pytest.mark.parametrize("change", ["tokenizer.json", "turns"])
def test_tokenizers_that_differ_are_two(pair, tmp_path, change):
    folder = tmp_path / "copy"
    shutil.copytree(pair, folder)
    config = json.loads((folder / "dro_config.json").read_text())
    config["start"] = dict.fromkeys(config["start"], str(pair.parent / "start"))
    for role in ("selector", "generator"):
        path = folder / role / "adapter_config.json"
        path.write_text(
            json.dumps({**json.loads(path.read_text()), "base_model_name_or_path": str(pair.parent / "start")})
        )
    (folder / "dro_config.json").write_text(json.dumps(config))
    loaded = RAGPipeline.from_pretrained(folder, dtype="float32")
    assert loaded.tokenizer is loaded.policy.tokenizer
    if change == "turns":
        config["turns"]["generator"]["end"] = "\n\n"
        (folder / "dro_config.json").write_text(json.dumps(config))
    else:
        path = folder / "generator" / change
        path.write_text(path.read_text() + "\n")
    loaded = RAGPipeline.from_pretrained(folder, dtype="float32")
    assert loaded.tokenizer is not loaded.policy.tokenizer
