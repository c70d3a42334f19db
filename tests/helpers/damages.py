"""What is done to saved pairs: each damage is a function of the pair's folder, with a start beside it."""

import json
import shutil

import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerFast

from dro_trl.models.files import ADAPTER_CONFIG
from tests.helpers.tiny_models import tiny_model, tiny_tokenizer
from tests.helpers.training import save_start

INDEX = "generator/model.safetensors.index.json"


def edit(name, **changes):
    """Change fields of a JSON file; those that are set to `...` go."""

    def damage(pair):
        path = pair / name
        value = {**json.loads(path.read_text()), **changes}
        path.write_text(json.dumps({key: field for key, field in value.items() if field is not ...}))

    return damage


def rewrite(name, content):
    def damage(pair):
        path = pair / name
        path.write_bytes(content(path.read_bytes()) if callable(content) else content)

    return damage


def repeat(name, key):
    """Let a JSON file say a key once more, otherwise."""
    return rewrite(name, lambda content: content.replace(b"{", b'{"%s": 1, ' % key.encode(), 1))


def remove(name):
    def damage(pair):
        path = pair / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return damage


def tensors(name, change):
    """Write a file of weights again, after `change` of its dict; it is given the name of its largest tensor."""

    def damage(pair):
        path = pair / name
        weights = load_file(path)
        change(weights, max(weights, key=lambda key: weights[key].numel()))
        save_file(weights, path, metadata={"format": "pt"})

    return damage


def files_of(kind):
    config, weights = {
        "full": ("config.json", "model.safetensors"),
        "sharded": ("config.json", "model-00002-of-00003.safetensors"),
    }.get(kind, (ADAPTER_CONFIG, "adapter_model.safetensors"))
    return f"selector/{config}", f"generator/{weights}"


BYTES = {
    "emptied": b"",
    "cut in half": lambda content: content[: len(content) // 2],
    "no text": b"\xff\xfe\x00\x01" * 8,
    "a list": b"[]",
    "null": b"null",
    "an empty object": b"{}",
}
TENSORS = {
    "one lost": lambda w, key: w.pop(key),
    "one renamed": lambda w, key: w.update({f"{key}_": w.pop(key)}),
    "one too many": lambda w, key: w.update({f"{key}_2": w[key].clone()}),
    "one of another shape": lambda w, key: w.update({key: w[key][:-1].clone()}),
    "one turned": lambda w, key: w.update({key: w[key].T.contiguous()}),
    "a NaN": lambda w, key: w[key].view(-1)[3:4].fill_(float("nan")),
    "an infinity": lambda w, key: w[key].view(-1)[3:4].fill_(float("-inf")),
    "all lost": lambda w, key: w.clear(),
}
OPTIONS = {
    "policy": ["nothing", 3, "dro_trl.NoPolicy", "dro_trl.RAGPipeline", None],
    "policy_kwargs": [{"no_such": 1}, [1], "x", {"retriever_prior": float("nan")}, {"retriever_prior": "much"}],
    "learnt_policy_kwargs": [{"retriever_prior": "much"}, {"no_such": 1.0}, [0.5]],
    "prompt_texts": [{"no_such": "x"}, {"answer": 3}, "x", {"answer": ""}],
    "num_selected": [0, -1, "2", 2.0, None, True, [2]],
    "num_candidates": [0, "20", None],
    "max_passage_tokens": [0, -5, "30", 1.5, False],
    "max_thinking_tokens": [-5, "30", 1.5],
    "shared_base": ["no", 1],
    "start": [None, {}, {"selector": "x"}, "x", {"selector": 1, "generator": 1}],
}


def damages(kind):
    """Return what is done to a pair of a kind, by name."""
    config, weights = files_of(kind)
    found = {}
    for name in ("dro_config.json", config, "selector/tokenizer.json", "generator/tokenizer_config.json"):
        found |= {f"{name}: {how}": rewrite(name, content) for how, content in BYTES.items()}
        found[f"{name}: removed"] = remove(name)
    found |= {f"{weights}: {how}": rewrite(weights, content) for how, content in BYTES.items()}
    found[f"{weights}: a byte short"] = rewrite(weights, lambda content: content[:-1])
    found[f"{weights}: bytes too many"] = rewrite(weights, lambda content: content + b"\0" * 8)
    found[f"{weights}: removed"] = remove(weights)
    found |= {f"{weights}: {how}": tensors(weights, change) for how, change in TENSORS.items()}
    found["the selector's folder removed"] = remove("selector")
    found["a file in place of a folder"] = lambda pair: (
        remove("generator")(pair),
        (pair / "generator").write_text(""),
    )
    found["a tokenizer of more tokens"] = add_tokens
    found["a special token more"] = add_special
    found["another tokenizer's file"] = exchange_tokenizer
    found |= OF_KIND[kind]
    if kind == "LoRA":
        found |= {
            f"{name} = {value!r}": edit("dro_config.json", **{name: value})
            for name, values in OPTIONS.items()
            for value in values
        }
        found |= {f"without {name}": edit("dro_config.json", **{name: ...}) for name in OPTIONS}
        found["an option twice"] = repeat("dro_config.json", "num_selected")
        found["an unknown option"] = edit("dro_config.json", max_pasage_tokens=30)
    return found


def add_tokens(pair):
    tokenizer = PreTrainedTokenizerFast.from_pretrained(pair / "selector")
    tokenizer.add_tokens([f"<{number}>" for number in range(30)])
    tokenizer.save_pretrained(pair / "selector")


def add_special(pair):
    tokenizer = PreTrainedTokenizerFast.from_pretrained(pair / "selector")
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    tokenizer.save_pretrained(pair / "selector")


def exchange_tokenizer(pair):
    path = pair / "selector" / "tokenizer.json"
    value = json.loads(path.read_text())
    value["model"]["vocab"] |= {f"word{number}": 400 + number for number in range(300)}
    path.write_text(json.dumps(value))


def add_other_kind(pair):
    other = tiny_model("llama", tiny_tokenizer(), seed=5)
    other.save_pretrained(pair / "generator")


def move_base(pair):
    (pair.parent / "start").rename(pair.parent / "moved")


def exchange_base(pair):
    remove("../start")(pair)
    save_start(pair.parent / "start", hidden_size=64)


def damage_base(pair):
    tensors("../start/model.safetensors", TENSORS["one lost"])(pair)


OF_WHOLE = {
    f"config.json: {name} = {value!r}": edit("generator/config.json", **{name: value})
    for name, value in [
        ("model_type", ...),
        ("model_type", "no_such"),
        ("model_type", "bert"),
        ("model_type", "gpt2"),
        ("num_hidden_layers", 1),
        ("num_hidden_layers", 3),
        ("hidden_size", 64),
        ("hidden_size", "wide"),
        ("vocab_size", 10),
        ("vocab_size", 4000),
        ("intermediate_size", 40),
        ("attention_bias", True),
        ("tie_word_embeddings", True),
        ("num_attention_heads", 3),
        ("quantization_config", {"quant_method": "no_such"}),
        ("architectures", None),
        ("dtype", "float99"),
    ]
} | {
    "generation_config.json: cut off": rewrite("generator/generation_config.json", b'{"eos'),
    "an adapter beside": lambda pair: (pair / "generator" / ADAPTER_CONFIG).write_text('{"peft_type": "LORA"}'),
    "an adapter's weights beside": lambda pair: save_file(
        {"x": torch.zeros(1)}, pair / "generator" / "adapter_model.safetensors"
    ),
    "an index beside": lambda pair: (pair / INDEX).write_text('{"weight_map": {}}'),
}
OF_ADAPTER = (
    {
        "adapter_config.json: a key twice": repeat("selector/adapter_config.json", "r"),
    }
    | {
        f"adapter_config.json: {name} = {value!r}": edit("selector/adapter_config.json", **{name: value})
        for name, value in [
            ("base_model_name_or_path", None),
            ("base_model_name_or_path", 3),
            ("base_model_name_or_path", ""),
            ("base_model_name_or_path", "no/such-model"),
            ("base_model_name_or_path", "/no/such/folder"),
            ("peft_type", ...),
            ("peft_type", "NO_SUCH"),
            ("peft_type", "IA3"),
            ("task_type", "SEQ_CLS"),
            ("task_type", "NO_SUCH"),
            ("r", 3),
            ("r", 0),
            ("r", "two"),
            ("r", ...),
            ("lora_alpha", ...),
            ("lora_alpha", "four"),
            ("target_modules", ["k_proj"]),
            ("target_modules", ["no_such"]),
            ("target_modules", None),
            ("target_modules", ...),
            ("target_modules", ["q_proj", "v_proj", "o_proj"]),
            ("target_modules", ["q_proj"]),
            ("modules_to_save", ["lm_head"]),
            ("bias", "all"),
            ("no_such_option", 1),
            ("layers_to_transform", [0]),
        ]
    }
    | {
        "a whole model beside": add_other_kind,
        "a base that is gone": move_base,
        "a base of another size": exchange_base,
        "a base that lacks a tensor": damage_base,
        "a base that is an adapter": lambda pair: edit(
            "selector/adapter_config.json", base_model_name_or_path=str(pair / "generator")
        )(pair),
        "another DoRA": lambda pair: edit("selector/adapter_config.json", use_dora=not _is_dora(pair))(pair),
    }
)


def _is_dora(pair):
    return json.loads((pair / "selector" / "adapter_config.json").read_text())["use_dora"]


def map_to(name):
    """Let the index say that the last tensor is in a file of this name; no word of the tensor where None."""

    def damage(pair):
        value = json.loads((pair / INDEX).read_text())
        last = list(value["weight_map"])[-1]
        value["weight_map"][last] = name
        if name is None:
            del value["weight_map"][last]
        (pair / INDEX).write_text(json.dumps(value))

    return damage


OF_SHARDS = {
    "the index removed": remove(INDEX),
    "an index of nothing": edit(INDEX, weight_map={}),
    "an index without a map": edit(INDEX, weight_map=...),
    "an index with a list": edit(INDEX, weight_map=["a"]),
    "an index that names a file that is not there": map_to("model-00009-of-00003.safetensors"),
    "an index that names the wrong file": map_to("model-00001-of-00003.safetensors"),
    "an index that lacks a tensor": map_to(None),
    "an index that names a number": map_to(3),
    "the weights of an earlier model beside": lambda pair: shutil.copy(
        pair.parent / "start" / "model.safetensors", pair / "generator"
    ),
}
OF_KIND = {
    "full": OF_WHOLE,
    "sharded": OF_SHARDS,
    "LoRA": OF_ADAPTER,
    "shared": OF_ADAPTER,
    "DoRA": {"another DoRA": OF_ADAPTER["another DoRA"]},
}
