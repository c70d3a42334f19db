#!/usr/bin/env bash
# llama-index-core 0.14.25: retrieval metrics of a list that names a document twice, as chunks of one document do.
# Expected: a document counts once; no metric of a share is above 1.
# Seen: hit rate, precision and recall compare sets; average precision and nDCG count every repetition: of two
# relevant documents, named twice each, 2.0 and 1.57. A retriever gains by repeating itself. Exits with 0 as long as
# that is so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q llama-index-core==0.14.25 || exit 2
cd "$work"
"$work/venv/bin/python" - <<'PY'
from llama_index.core.evaluation.retrieval.metrics import NDCG, AveragePrecision, HitRate, Precision, Recall

METRICS = (HitRate, Precision, Recall, AveragePrecision, NDCG)


def scores(retrieved):
    return {m.__name__: round(m().compute(expected_ids=["a", "b"], retrieved_ids=retrieved).score, 2) for m in METRICS}


once, twice = scores(["a", "b"]), scores(["a", "a", "b", "b"])
print(f"named once: {once}\nnamed twice: {twice}")
assert set(once.values()) == {1.0}
assert twice["HitRate"] == twice["Precision"] == twice["Recall"] == 1.0
assert twice["AveragePrecision"] == 2.0 and twice["NDCG"] == 1.57, "repetitions count once now"
PY
