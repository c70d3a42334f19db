#!/usr/bin/env bash
# transformers 5.23.0: beam search of MiniMax (lightning attention beside full attention), with and without its
# cache.
# Expected: the same tokens, as with Llama and with Qwen3-Next.
# Seen: with the cache a beam that takes another one's place gets its keys and values and keeps its own recurrent
# states; beams end in other texts, without a word. Greedy decoding is right. Exits with 0 as long as that is so.
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
         "num_attention_heads": 4, "num_key_value_heads": 2,
         "head_dim": 8, "initializer_range": 0.3, "pad_token_id": 0, "eos_token_id": None}
linear = {"layer_types": ["linear_attention", "full_attention"], "num_experts_per_tok": 1}
minimax = {"num_local_experts": 2, "block_size": 4}
qwen = {"linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
        "num_experts": 2, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16}
kinds = {"llama": {}, "qwen3_next": linear | qwen, "minimax": linear | minimax}
prompts = torch.randint(2, 64, (20, 1, 11), generator=torch.Generator().manual_seed(0))
same = {}
for kind, more in kinds.items():
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **(sizes | more))).eval()
    for beams in (1, 3):
        options = {"num_beams": beams, "do_sample": False, "max_new_tokens": 8}
        same[kind, beams] = sum(
            torch.equal(*(model.generate(ids, use_cache=use, **options) for use in (True, False)))
            for ids in prompts
        )
    print(f"{kind}: of 20 prompts the same with and without cache: greedy {same[kind, 1]}, 3 beams {same[kind, 3]}")
assert min(same["llama", 1], same["llama", 3], same["qwen3_next", 1], same["qwen3_next", 3], same["minimax", 1]) >= 19
assert same["minimax", 3] < 15, "MiniMax's states follow their beams now"
PY
