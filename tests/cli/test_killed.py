"""Commands killed at random moments: nothing half-written is taken for whole, and the next ends as if nothing was."""

import json
import random
import signal
import subprocess
import sys
import time

import pytest

from dro_trl.retrieval.pyserini import PyseriniRetriever

PROGRAM = (
    "import dro_trl.retrieval.adding as a; a._SECONDS_BETWEEN_RECORDS = 0; from dro_trl.cli.app import app; app()"
)
NUM_ROWS = 6_000


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Passages, an index of them, questions, and the same questions as a public dataset has them."""
    folder, rng = tmp_path_factory.mktemp("inputs"), random.Random(0)
    words = [f"word{number}" for number in range(300)]
    corpus = [{"id": str(n), "title": "", "text": " ".join(rng.choices(words, k=30))} for n in range(NUM_ROWS)]
    questions = [
        {"id": f"q{n}", "question": " ".join(rng.choices(words, k=3)), "gold_ids": ["7"]} for n in range(NUM_ROWS)
    ]
    public = [{"id": row["id"], "question": row["question"], "answer": ["a"]} for row in questions]
    for name, rows in {"corpus": corpus, "questions": questions, "public": public}.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    PyseriniRetriever.build(corpus, folder / "index", progress=False).close()
    return folder


COMMANDS = {
    "retrieve": "retrieve --index_dir {inputs}/index --input {inputs}/questions.jsonl -k 5 --output out --run run.txt",
    "index": "index --corpus {inputs}/corpus.jsonl --index_dir out",
    "prepare": "prepare --dataset natural_questions --input {inputs}/public.jsonl --output out",
}


def begin(name, inputs, folder):
    words = COMMANDS[name].format(inputs=inputs).split()
    return subprocess.Popen([sys.executable, "-c", PROGRAM, *words], cwd=folder, stdout=subprocess.PIPE, text=True)


def contents(folder, name):
    """Return what a command leaves; of an index the number of its passages, since no two builds are the same."""
    if name == "index" and (folder / "out").exists():
        return {"out": json.loads((folder / "out" / "dro_trl_index.json").read_text())["passages"]}
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", COMMANDS)
def test_killed_at_random_moments(tmp_path, inputs, name, kills):
    rng, gone_on = random.Random(0), []
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    start = time.monotonic()
    process = begin(name, inputs, tmp_path / "whole")
    process.communicate()
    took = time.monotonic() - start
    whole = contents(tmp_path / "whole", name)
    assert process.returncode == 0
    assert whole
    for _ in range(kills):
        process = begin(name, inputs, tmp_path / "killed")
        try:
            said, _ = process.communicate(timeout=rng.uniform(0.4, 0.95) * took)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            said, _ = process.communicate()
        gone_on.append("going on after" in said)
        there = contents(tmp_path / "killed", name)
        assert all(there[file] == whole[file] for file in there)
    process = begin(name, inputs, tmp_path / "killed")
    said, _ = process.communicate(timeout=120)
    # An index that came to its end before the kill is not overwritten.
    assert process.returncode == (2 if name == "index" and there else 0)
    assert contents(tmp_path / "killed", name) == whole
    assert not [path.name for path in (tmp_path / "killed").iterdir() if path.name.startswith(".")]
    assert any(gone_on) or "going on after" in said or name != "retrieve"
