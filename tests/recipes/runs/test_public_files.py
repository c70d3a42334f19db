"""The runs from public files, as they stand: a hub on this machine has tiny files in the layouts of the real ones.

Their names, splits, columns and types are those of the datasets' cards, as are the features that Parquet files have.
"""

import io
import json
import os
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.docs.inputs import PASSAGES, ROOT, TOWNS, lucene_index, prebuilt_folder
from tests.helpers.hub_server import hub_server
from tests.helpers.training import save_start

NAMES = ["2wikimultihopqa", "hotpotqa", "musique", "natural_questions", "wizard_of_wikipedia"]
SIZES = {"train": 3, "validation": 2}
PROGRAM = """
import sys
import pytest
from tests.docs.running import JavaPool, invoke, spare_processes
patch = pytest.MonkeyPatch()
spare_processes(patch)
java = JavaPool(patch)
try:
    for name in sys.argv[2:]:
        invoke(["run", "--config", name, *sys.argv[1].split()])
finally:
    java.close()
"""


def asked(town):
    return f"Who discovered the radium of {town}?"


def nq_open(town):
    return {"question": asked(town), "answer": [f"Ada {town}"]}


def hotpotqa(town):
    """`supporting_facts` and `context` are sequences of a mapping there, which Parquet holds as mappings of lists."""
    facts, context = {"title": [town], "sent_id": [0]}, {"title": [town, "Ada"], "sentences": [["A town."], ["One."]]}
    row = {"id": town, "question": asked(town), "answer": f"Ada {town}", "type": "bridge", "level": "hard"}
    return row | {"supporting_facts": facts, "context": context}


def wikimultihopqa(town):
    evidences = [[town, "discovered", f"Ada {town}"]]
    return {key: value for key, value in hotpotqa(town).items() if key != "level"} | {"evidences": evidences}


def musique(town):
    texts = [
        {"idx": n, "title": t, "paragraph_text": "A town.", "is_supporting": n == 1}
        for n, t in enumerate(["Ada", town])
    ]
    hops = [{"id": 7, "question": f"{town} >> radium", "answer": f"Ada {town}", "paragraph_support_idx": 1}]
    row = {"id": f"2hop__1_{town}", "paragraphs": texts, "question": asked(town), "question_decomposition": hops}
    return row | {"answer": f"Ada {town}", "answer_aliases": [town], "answerable": True}


def wow(town):
    """A turn: `input` is the dialogue so far; fields that the task does not use are null or empty, numbers -1."""
    place = dict.fromkeys(("start_paragraph_id", "start_character", "end_paragraph_id", "end_character"), 1)
    gold = {"bleu_score": None, **place, "meta": None, "section": "", "title": town, "wikipedia_id": "12"}
    output = {"answer": f"It was Ada {town}.", "meta": {"score": -1}, "provenance": [gold]}
    meta = {"left_context": "", "mention": "", "right_context": "", "partial_evidence": [], "obj_surface": []}
    said = f"I like {town}.\nWhat do you like?\n{asked(town)}"
    return {"id": town, "input": said, "meta": meta, "output": [output]}


def parquet(rows):
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file.getvalue()


def jsonl(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def card(config, folder):
    files = [{"split": split, "path": f"{folder}/{split}-*"} for split in SIZES]
    return f"---\nconfigs: {json.dumps([{'config_name': config, 'data_files': files}])}\n---\n".encode()


def repository(row_of, config, folder):
    files = {"README.md": card(config, folder)}
    for number, (split, size) in enumerate(SIZES.items()):
        rows = [row_of(town) for town in TOWNS[3 * number : 3 * number + size]]
        files[f"{folder}/{split}-00000-of-00001.parquet"] = parquet(rows)
    return files


def datasets():
    parts = [[musique(town) for town in towns] for towns in (TOWNS[:3], TOWNS[3:5])]
    return {
        "google-research-datasets/nq_open": repository(nq_open, "nq_open", "nq_open"),
        "hotpotqa/hotpot_qa": repository(hotpotqa, "distractor", "distractor"),
        "framolfese/2WikiMultihopQA": repository(wikimultihopqa, "default", "data"),
        "dgslibisey/MuSiQue": {
            f"musique_ans_v1.0_{split}.jsonl": jsonl(rows) for split, rows in zip(("train", "dev"), parts, strict=True)
        },
        "facebook/kilt_tasks": repository(wow, "wow", "wow"),
    }


def run(folder, options):
    """Run all of them in one process, which spares imports, with a hub and an index of these names."""
    lucene_index(prebuilt_folder(folder / "pyserini", "wikipedia-dpr-100w"))
    save_start(folder / "model", "qwen2")
    with hub_server() as hub:
        model = {path.name: path.read_bytes() for path in (folder / "model").iterdir()}
        hub.repositories = {f"datasets/{name}": {"main": files} for name, files in datasets().items()}
        hub.repositories["Qwen/Qwen2.5-0.5B"] = {"main": model}
        environment = {"HF_ENDPOINT": hub.endpoint, "HF_HUB_OFFLINE": "0", "NO_PROXY": "127.0.0.1"}
        environment |= {"HF_HOME": str(folder / "home"), "PYSERINI_CACHE": str(folder / "pyserini")}
        environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, options, *NAMES],
            cwd=folder,
            env=os.environ | environment,
            capture_output=True,
            text=True,
            timeout=800,
        )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-5000:]


def rows_of(folder, name, file):
    path = folder / "runs" / "wikipedia" / name / file
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_questions_come_from_the_hub_and_candidates_from_the_prebuilt_index(tmp_path):
    run(tmp_path, "--until retrieve")
    for name in NAMES:
        for split, size in (("train", 3), ("dev", 2)):
            rows = rows_of(tmp_path, name, f"3-retrieve/{split}.jsonl")
            towns = TOWNS[:3] if split == "train" else TOWNS[3:5]
            assert len(rows) == size
            for row, town in zip(rows, towns, strict=True):
                best = row["candidates"][0]
                assert (best["title"], len(row["candidates"])) == (town, 20), name
                assert best["text"] == PASSAGES[TOWNS.index(town)]["text"]
                if name == "wizard_of_wikipedia":
                    assert row["question"] == f"I like {town}.\nWhat do you like?\n{asked(town)}"
                    assert (row["answers"], row.get("gold_ids")) == ([f"It was Ada {town}."], None)
                else:
                    assert row["question"] == asked(town)
                    assert row["answers"][0] == f"Ada {town}"
                    assert best["id"] in row["gold_ids"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_all_stages(tmp_path):
    run(tmp_path, "")
    for name in NAMES:
        results = json.loads((tmp_path / "runs" / "wikipedia" / name / "6-evaluate" / "results.json").read_text())
        assert list(results["systems"])[-1] == "trained"
        assert len(results["predictions"]["trained"]) == 2
        further = "rouge_l" if name == "wizard_of_wikipedia" else "success"
        assert any(further in key for key in results["systems"]["trained"]), name
        assert (tmp_path / "runs" / "wikipedia" / name / "5-train" / "model" / "dro_config.json").is_file()
