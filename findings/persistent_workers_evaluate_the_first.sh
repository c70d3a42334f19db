#!/usr/bin/env bash
# transformers 5.23.0: Trainer.evaluate of one dataset and then of others, dataloader_persistent_workers=True.
# Expected: each call evaluates the dataset that it is given, as without persistent workers.
# Seen: the loader of the first is kept and taken for all that follow: each dataset of a dict of datasets, and every
# later call, gets the loss of the first one under its own name, without a word. Exits with 0 as long as that is so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0 transformers==5.23.0 accelerate==1.15.0 || exit 2
cd "$work"
cat > evaluations.py <<'PY'
import torch
from transformers import Trainer, TrainingArguments


class Echo(torch.nn.Module):
    """Its loss is the mean of what it is given."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x, labels=None):
        return {"loss": x.mean() + 0 * self.weight.sum(), "logits": x}


def dataset(value, rows):
    return [{"x": torch.tensor([value]), "labels": torch.tensor([value])} for _ in range(rows)]


def losses(persistent):
    args = TrainingArguments("out", report_to="none", disable_tqdm=True, use_cpu=True, dataloader_num_workers=1,
                             dataloader_persistent_workers=persistent)
    trainer = Trainer(Echo(), args, eval_dataset=dataset(1.0, 4))
    one_by_one = [trainer.evaluate(given)["eval_loss"] for given in (None, dataset(2.0, 6), dataset(3.0, 8))]
    found = trainer.evaluate({"four": dataset(4.0, 3), "five": dataset(5.0, 2)})
    return [*one_by_one, found["eval_four_loss"], found["eval_five_loss"]]


if __name__ == "__main__":
    fresh, kept = losses(False), losses(True)
    print(f"losses of datasets of ones to fives: {fresh}; with persistent workers: {kept}")
    assert fresh == [1, 2, 3, 4, 5]
    assert kept == [1, 1, 1, 1, 1], "each dataset is evaluated now"
PY
HF_HUB_OFFLINE=1 "$work/venv/bin/python" evaluations.py
