#!/usr/bin/env bash
# transformers 5.23.0: Bamba called with a cache and no position_ids, as an own decoding loop does.
# Expected: position_ids go on from the cache's length, as Llama's and Granite's hybrid's do.
# Seen: they begin at 0 in every call, so that the attention layers rotate each further token as the first one:
# logits are another text's, without a word; with position_ids given they are right. Exits with 0 as long as that is
# so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0 transformers==5.23.0 || exit 2
cd "$work"
HF_HUB_OFFLINE=1 "$work/venv/bin/python" - <<'PY'
import torch
from transformers import BambaConfig, BambaForCausalLM, LlamaConfig, LlamaForCausalLM

sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
         "num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.3}
mamba = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_chunk_size": 4, "attn_layer_indices": [1]}
ids = torch.randint(2, 64, (1, 12), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def difference(model, positions):
    whole = model(ids, use_cache=False).logits
    cache, logits = model(ids[:, :6], use_cache=True).past_key_values, []
    for i in range(6, 12):
        more = {"position_ids": torch.tensor([[i]])} if positions else {}
        logits.append(model(ids[:, i : i + 1], past_key_values=cache, use_cache=True, **more).logits)
    return float((torch.cat(logits, 1) - whole[:, 6:]).abs().max())


torch.manual_seed(0)
llama = LlamaForCausalLM(LlamaConfig(**sizes)).eval()
bamba = BambaForCausalLM(BambaConfig(**sizes, **mamba)).eval()
print(f"token by token against one call, largest difference of a logit: Llama {difference(llama, False):.0e}, "
      f"Bamba with position_ids {difference(bamba, True):.0e}, without {difference(bamba, False):.2f}")
assert difference(llama, False) < 1e-4 and difference(bamba, True) < 1e-4
assert difference(bamba, False) > 0.01, "Bamba's positions go on from its cache now"
PY
