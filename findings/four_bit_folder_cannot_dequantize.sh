#!/usr/bin/env bash
# transformers 5.23.0 with bitsandbytes 0.50.2: dequantize() of a 4-bit model, as loaded and as saved and loaded
# again.
# Expected: a plain model both times.
# Seen: quantized while loading it is dequantized; the same weights from a folder that save_pretrained wrote end in
# RuntimeError "Invalid device string: 'float32'", and save_pretrained of that model in a bare NotImplementedError.
# Exits with 0 as long as that is so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0 transformers==5.23.0 accelerate==1.15.0 bitsandbytes==0.50.2 || exit 2
cd "$work"
HF_HUB_OFFLINE=1 "$work/venv/bin/python" - <<'PY'
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 4}
LlamaForCausalLM(LlamaConfig(vocab_size=100, **sizes)).save_pretrained("plain")
four_bit = BitsAndBytesConfig(load_in_4bit=True)
AutoModelForCausalLM.from_pretrained("plain", quantization_config=four_bit).save_pretrained("four_bit")
model = AutoModelForCausalLM.from_pretrained("plain", quantization_config=four_bit).dequantize()
print("quantized while loading:", type(model.model.layers[0].mlp.up_proj).__name__)
assert type(model.model.layers[0].mlp.up_proj) is torch.nn.Linear


def failure(call):
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"


loaded = AutoModelForCausalLM.from_pretrained("four_bit")
saving = failure(lambda: loaded.save_pretrained("again"))
dequantizing = failure(loaded.dequantize)
print("from the 4-bit folder, save_pretrained:", saving)
print("from the 4-bit folder, dequantize:", dequantizing)
assert saving and saving.startswith("NotImplementedError"), "a 4-bit folder can be saved now"
assert dequantizing and "Invalid device string" in dequantizing, "a 4-bit folder can be dequantized now"
PY
