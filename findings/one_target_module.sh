#!/usr/bin/env bash
# trl 1.16.0 with peft 0.21.2: ModelConfig(use_peft=True, lora_target_modules=["q_proj"]), a list of one.
# Expected: LoRA on every q_proj, as with a list of two, or with peft's own LoraConfig(target_modules=["q_proj"]).
# Seen: TRL turns the list into its only string, which peft takes for a pattern of whole names; none fits, and
# get_peft_model raises. Exits with 0 as long as that is so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0 transformers==5.23.0 peft==0.21.2 trl==1.16.0 || exit 2
cd "$work"
HF_HUB_OFFLINE=1 "$work/venv/bin/python" - <<'PY'
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM
from trl import ModelConfig, get_peft_config

sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}


def adapted(config):
    model = get_peft_model(LlamaForCausalLM(LlamaConfig(vocab_size=100, **sizes)), config)
    return sum("lora_A" in name for name, _ in model.named_parameters())


def config(modules):
    return get_peft_config(ModelConfig(use_peft=True, lora_target_modules=modules))


print("peft, a list of one:", adapted(LoraConfig(target_modules=["q_proj"])))
print("trl, a list of two:", adapted(config(["q_proj", "v_proj"])))
print("trl, a list of one becomes", repr(config(["q_proj"]).target_modules))
assert adapted(LoraConfig(target_modules=["q_proj"])) == 2
assert adapted(config(["q_proj", "v_proj"])) == 4
try:
    adapted(config(["q_proj"]))
except ValueError as error:
    print("ValueError:", str(error)[:80])
else:
    raise SystemExit("a list of one is adapted now")
PY
