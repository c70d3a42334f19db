#!/usr/bin/env bash
# bm25s 0.3.16: a question none of whose words is in the corpus, and passages of one score.
# Expected: no passage or an error for the first; the corpus's order among equals, as Lucene has it.
# Seen: k passages with score 0, the last of the corpus first, as if they were found; equal scores come in reverse
# order of the corpus, so that what is cut off at k are the first. Exits with 0 as long as that is so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q bm25s==0.3.16 || exit 2
cd "$work"
HF_HUB_OFFLINE=1 "$work/venv/bin/python" - <<'PY'
import bm25s

corpus = [["town", f"name{i}"] for i in range(40)]
retriever = bm25s.BM25()
retriever.index(corpus, show_progress=False)


def best(*words):
    passages, scores = retriever.retrieve([list(words)], k=5, show_progress=False)
    return passages[0].tolist(), scores[0].tolist()


print("a word of no passage:", *best("nowhere"))
print("a word of one passage:", *best("name7"))
print("a word of all passages alike:", *best("town"))
assert best("nowhere") == ([39, 38, 37, 36, 35], [0.0] * 5), "nothing is found for an unknown word now"
assert best("name7")[0][0] == 7 and best("name7")[1][1:] == [0.0] * 4
assert best("town")[0] == [39, 38, 37, 36, 35] and len(set(best("town")[1])) == 1
PY
