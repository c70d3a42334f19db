#!/usr/bin/env bash
# datasets 5.2.0: the feature Json, which keeps values of any shape as JSON.
# Expected: what was written comes back.
# Seen: floats come back with ten digits after the point (1/3 as 0.33333333330000003; 1,000 of 1,000 were others), and
# NaN comes back as None. Exits with 0 as long as that is so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q datasets==5.2.0 pandas==3.1.1 || exit 2
cd "$work"
HF_HUB_OFFLINE=1 "$work/venv/bin/python" - <<'PY'
import random

from datasets import Dataset, Features, Json

features = Features({"value": Json()})


def back(values):
    return Dataset.from_dict({"value": values}, features=features)["value"][:]


draw = random.Random(0)
floats = [draw.random() for _ in range(1000)]
changed = sum(a != b for a, b in zip(back(floats), floats))
print("1/3 comes back as", back([1 / 3])[0])
print("of 1,000 floats in [0, 1) changed:", changed)
print("NaN comes back as", back([float("nan")])[0])
assert changed > 0, "floats come back as they are now"
assert back([float("nan")])[0] is None
PY
