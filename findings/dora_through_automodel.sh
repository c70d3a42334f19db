#!/usr/bin/env bash
# transformers 5.23.0 with peft 0.21.2: AutoModelForCausalLM.from_pretrained of a DoRA adapter's folder.
# Expected: the model that was saved, as from peft's AutoPeftModelForCausalLM.
# Seen: the adapter's magnitudes are looked for under another name; they stay as at the start, with a warning at most,
# and the logits are another model's. Exits with 0 as long as that is so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0 transformers==5.23.0 peft==0.21.2 || exit 2
cd "$work"
HF_HUB_OFFLINE=1 "$work/venv/bin/python" - <<'PY'
import torch
from peft import AutoPeftModelForCausalLM, LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
LlamaForCausalLM(LlamaConfig(vocab_size=100, initializer_range=0.3, **sizes)).save_pretrained("base")
base = AutoModelForCausalLM.from_pretrained("base")
model = get_peft_model(base, LoraConfig(r=4, use_dora=True, target_modules="all-linear", task_type="CAUSAL_LM"))
with torch.no_grad():
    for name, parameter in model.named_parameters():
        if "lora_magnitude" in name:
            parameter.mul_(2)
model.eval().save_pretrained("adapter")
ids = torch.arange(10)[None]
with torch.no_grad():
    saved = model(ids).logits
    by_peft = AutoPeftModelForCausalLM.from_pretrained("adapter").eval()(ids).logits
    by_transformers = AutoModelForCausalLM.from_pretrained("adapter").eval()(ids).logits
print(f"largest difference of a logit: by peft {float((by_peft - saved).abs().max()):.1e}, "
      f"by transformers {float((by_transformers - saved).abs().max()):.2f}")
assert float((by_peft - saved).abs().max()) < 1e-5
assert float((by_transformers - saved).abs().max()) > 0.1, "transformers reads DoRA's magnitudes now"
PY
