#!/usr/bin/env bash
# ir_measures 0.4.3: ERR and nDCG with exponential gains where query ids have a hyphen or a letter, as TREC's 2019-7.
# Expected: the values of query 7, as of every other measure; a name is a name.
# Seen: the program that computes these two cuts an id up to its last hyphen. The value goes to a query 7 that nobody
# asked for, 2019-7 gets 0, and the mean is taken over both: half the value, without a word. The id "q7" ends in
# CalledProcessError. Exits with 0 as long as that is so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q ir_measures==0.4.3 || exit 2
cd "$work"
HF_HUB_OFFLINE=1 "$work/venv/bin/python" - <<'PY'
import subprocess

import ir_measures
from ir_measures import AP, ERR, nDCG

measures = [ERR @ 10, nDCG(dcg="exp-log2") @ 10, nDCG @ 10, AP]


def values(query):
    judged, ranked = {query: {"a": 1, "b": 0, "c": 2}}, {query: {"a": 3.0, "b": 2.0, "c": 1.0}}
    found = ir_measures.calc_aggregate(measures, judged, ranked)
    return [round(found[measure], 4) for measure in measures]


print([str(measure) for measure in measures])
for query in ("7", "2019-7"):
    print(query, values(query))
assert values("7")[2:] == values("2019-7")[2:]
assert values("7")[:2] != values("2019-7")[:2], "ids with a hyphen are read whole now"
assert all(abs(half - whole / 2) < 1e-3 for whole, half in zip(values("7")[:2], values("2019-7")[:2]))
try:
    values("q7")
except subprocess.CalledProcessError as error:
    print("q7: CalledProcessError, exit status", error.returncode)
else:
    raise AssertionError("the id q7 is read now")
PY
