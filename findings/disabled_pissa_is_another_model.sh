#!/usr/bin/env bash
# peft 0.21.2: disable_adapter of a fresh adapter with init_lora_weights="pissa" or "olora".
# Expected: the base model's outputs, as with every other adapter; a reference model costs nothing that way.
# Seen: these initialisations take the adapter's product out of the base weights, and disable_adapter leaves it out:
# logits are off by several units, without a word. Exits with 0 as long as that is so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0 transformers==5.23.0 peft==0.21.2 || exit 2
cd "$work"
HF_HUB_OFFLINE=1 "$work/venv/bin/python" - <<'PY'
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
ids = torch.arange(10)[None]
off_by = {}
for start in (True, "orthogonal", "pissa", "olora"):
    torch.manual_seed(0)
    base = LlamaForCausalLM(LlamaConfig(vocab_size=100, initializer_range=0.3, **sizes)).eval()
    with torch.no_grad():
        wanted = base(ids).logits
        config = LoraConfig(r=4, init_lora_weights=start, target_modules="all-linear", task_type="CAUSAL_LM")
        model = get_peft_model(base, config).eval()
        enabled = float((model(ids).logits - wanted).abs().max())
        with model.disable_adapter():
            off_by[start] = float((model(ids).logits - wanted).abs().max())
    print(f"{start}: logits against the base model's: enabled {enabled:.0e}, disabled {off_by[start]:.2g}")
    assert enabled < 1e-3
assert off_by[True] < 1e-5 and off_by["orthogonal"] < 1e-3
assert off_by["pissa"] > 0.1 and off_by["olora"] > 0.1, "disable_adapter gives the base model back now"
PY
