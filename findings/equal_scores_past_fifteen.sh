#!/usr/bin/env bash
# ranx 0.3.21 and torchmetrics 1.9.0: metrics of a run whose first document has the score of the others, as the grades
# of a language model often are.
# Expected: equals keep the run's order (as in the file, or as given), whatever their number.
# Seen: ranx keeps it up to 15 documents; from 16 on the first of them stands anywhere, its reciprocal rank falls from
# 1 to 1/15. torchmetrics puts it anywhere from the beginning, by the number of documents. Neither says so. Exits with
# 0 as long as that is so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q ranx==0.3.21 torchmetrics==1.9.0 torch==2.13.0 || exit 2
cd "$work"
"$work/venv/bin/python" - <<'PY'
import warnings

warnings.simplefilter("ignore")
import torch
from ranx import Qrels, Run, evaluate
from torchmetrics.retrieval import RetrievalMRR


def by_ranx(size):
    run = Run({"q": {f"d{i}": 1.0 for i in range(size)}})
    return float(evaluate(Qrels({"q": {"d0": 1}}), run, "mrr"))


def by_torchmetrics(size):
    relevant = torch.arange(size) == 0
    return float(RetrievalMRR()(torch.ones(size), relevant, torch.zeros(size, dtype=torch.long)))


for size in (5, 15, 16, 17, 40):
    print(f"{size} documents of one score, the first relevant: reciprocal rank by ranx {by_ranx(size):.3f}, "
          f"by torchmetrics {by_torchmetrics(size):.3f}")
assert by_ranx(5) == by_ranx(15) == 1.0
assert by_ranx(16) < 0.1, "ranx keeps the order of more than 15 equals now"
assert len({by_torchmetrics(size) for size in (5, 16, 17, 40)}) > 1, "torchmetrics keeps the order of equals now"
PY
