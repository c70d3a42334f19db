#!/usr/bin/env bash
# transformers 5.23.0: a text through the cache in two pieces (a long prompt in chunks, the next turn of a chat).
# Expected: the logits of one call.
# Seen: right for Mamba-2, Falcon-H1 and LFM2; Mamba, Falcon-Mamba and Jamba begin every piece of several tokens from
# an empty state and convolution, cache or not, and say nothing. Token by token they are right. Exits with 0 as long
# as that is so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0 transformers==5.23.0 || exit 2
cd "$work"
HF_HUB_OFFLINE=1 "$work/venv/bin/python" - <<'PY'
import torch
from transformers import AutoConfig, AutoModelForCausalLM

sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
         "num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.3, "pad_token_id": 0}
mamba2 = {"num_heads": 8, "head_dim": 8, "n_groups": 2, "chunk_size": 4, "state_size": 8}
jamba = {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "num_experts": 2,
         "mamba_d_state": 8, "mamba_dt_rank": 4}
kinds = {"mamba2": mamba2, "lfm2": {"layer_types": ["conv", "full_attention"], "block_multiple_of": 8},
         "mamba": {"state_size": 8}, "falcon_mamba": {"state_size": 8}, "jamba": jamba}
ids = torch.randint(2, 64, (1, 12), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def difference(model, pieces):
    whole, cache, logits = model(ids, use_cache=False).logits, {}, []
    for piece in ids.split(pieces, dim=1):
        output = model(piece, use_cache=True, **cache)
        name = "past_key_values" if "past_key_values" in output else "cache_params"
        cache = {name: output[name]}
        logits.append(output.logits)
    return float((torch.cat(logits, 1) - whole).abs().max())


seen = {}
for kind, more in kinds.items():
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **(sizes | more))).eval()
    seen[kind] = difference(model, 6)
    singly = difference(model, [6] + [1] * 6)
    print(f"{kind}: difference of logits: 6 and 6 tokens {seen[kind]:.1e}, 6 and then one by one {singly:.1e}")
    assert singly < 1e-3
assert max(seen["mamba2"], seen["lfm2"]) < 1e-3
assert min(seen["mamba"], seen["falcon_mamba"], seen["jamba"]) > 0.01, "a second piece goes on from the first now"
PY
