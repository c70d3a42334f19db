#!/usr/bin/env bash
# ranx 0.3.21: a run whose documents all have one score.
# Expected: one rule for ties (the order given, or the id), whatever their number.
# Seen: up to 15 documents the order given stays; from 16 on another sort is taken, documents change places, and MRR
# with them, without a word. Exits with 0 as long as that is so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q ranx==0.3.21 || exit 2
cd "$work"
HF_HUB_OFFLINE=1 "$work/venv/bin/python" - <<'PY'
from ranx import Qrels, Run, evaluate

kept = {}
for size in (5, 15, 16, 17, 40):
    names = [f"d{i:02d}" for i in range(size)]
    run = Run({name: {other: 1.0 for other in names} for name in names})
    qrels = Qrels({name: {name: 1} for name in names})
    scores = evaluate(qrels, run, "mrr", return_mean=False)
    ranks = [round(1 / score) for score in scores]
    kept[size] = ranks == list(range(1, size + 1))
    print(f"{size} documents of one score: ranks {ranks[:8]}, the order given: {kept[size]}")
assert kept[5] and kept[15]
assert not (kept[16] and kept[17] and kept[40]), "ties keep their order now"
PY
