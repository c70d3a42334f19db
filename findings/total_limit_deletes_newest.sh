#!/usr/bin/env bash
# transformers 5.23.0: Trainer with save_total_limit=1 and metric_for_best_model, load_best_model_at_end=False.
# Expected: the newest checkpoint stays, from which a longer run can go on.
# Seen: while training the newest stays beside the best; when training ends, the newest is deleted and the best is
# left, so that resuming goes back without a word. Exits with 0 as long as that is so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0 transformers==5.23.0 accelerate==1.15.0 || exit 2
cd "$work"
HF_HUB_OFFLINE=1 "$work/venv/bin/python" - <<'PY'
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

torch.manual_seed(0)
sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
rows = [{"input_ids": torch.tensor([1, 2, 3, i]), "labels": torch.tensor([1, 2, 3, i])} for i in range(8)]
model = LlamaForCausalLM(LlamaConfig(vocab_size=20, **sizes))
args = TrainingArguments(
    "out", max_steps=4, per_device_train_batch_size=2, learning_rate=0.1, save_strategy="steps", save_steps=1,
    eval_strategy="steps", eval_steps=1, metric_for_best_model="eval_loss", greater_is_better=True, save_total_limit=1,
    report_to="none", use_cpu=True, disable_tqdm=True,
)  # The loss falls, and more of it is called better, so that the first checkpoint is the best.
Trainer(model, args, train_dataset=rows, eval_dataset=rows[:2]).train()
left = sorted(path.name for path in Path("out").glob("checkpoint-*"))
print("left after 4 steps:", left)
assert left == ["checkpoint-1"], "the newest checkpoint stays now"
PY
