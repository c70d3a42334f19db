"""What the pages' snippets read, under the names that the pages give it: small files and tiny models."""

import gzip
import importlib.util
import json
import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import yaml
from datasets import Dataset

from dro_trl.files.writing import write_jsonl
from dro_trl.retrieval import jvm
from tests.docs.pages import ROOT
from tests.helpers.training import LORA, make_trainer, save_start

TOWNS = (
    "Oslo Lima Cairo Perth Quito Turin Kyoto Accra Delhi Dakar Hanoi Izmir Kabul Leeds Lyon Malmo Minsk Omsk Osaka "
    "Paris Porto Pune Riga Rome Seoul Sofia Tunis Vaduz"
).split()
PASSAGES = [
    {"id": f"p{number}", "title": town, "text": f"Ada {town} discovered the radium of {town}."}
    for number, town in enumerate(TOWNS)
]
HOTPOTQA_ON_THE_HUB = (
    "---\nconfigs:\n- config_name: distractor\n  data_files:\n  - {split: validation, path: rows.jsonl}\n---\n"
)


def questions(num: int = 4, num_candidates: int = 0) -> list[dict[str, Any]]:
    """Return questions about the first towns, with so many candidates each, the gold passage the second of them."""
    rows = []
    for number, town in enumerate(TOWNS[:num]):
        row = {"id": f"q{number}", "question": f"Who discovered the radium of {town}?", "answers": [f"Ada {town}"]}
        row |= {"gold_ids": [f"p{number}"]}
        if num_candidates:
            places = [(number + 1) % len(TOWNS), number, *range(number + 2, number + num_candidates)]
            found = [PASSAGES[place % len(TOWNS)] for place in places]
            # A list longer than the corpus repeats texts, never ids.
            row["candidates"] = [
                {**p, "id": p["id"] if place < len(TOWNS) else f"{p['id']}-{place}", "score": 20.0 - rank / 8}
                for rank, (place, p) in enumerate(zip(places, found, strict=True))
            ]
        rows.append(row)
    return rows


def of_hotpotqa(row: dict[str, Any], on_the_hub: bool = False) -> dict[str, Any]:
    """Return a question in the form of HotpotQA's official files, or in that of the hub."""
    number = int(row["id"][1:])
    title, text = PASSAGES[number]["title"], PASSAGES[number]["text"]
    facts, context = [[title, 0]], [[title, [text]]]
    if on_the_hub:
        facts, context = {"title": [title], "sent_id": [0]}, {"title": [title], "sentences": [[text]]}
    raw = {"question": row["question"], "answer": row["answers"][0], "supporting_facts": facts, "context": context}
    return {"id" if on_the_hub else "_id": row["id"], **raw}


def of_nq_open(row: dict[str, Any]) -> dict[str, Any]:
    return {"question": row["question"], "answer": row["answers"]}


def of_rankllm(row: dict[str, Any]) -> dict[str, Any]:
    found = [{"docid": p["id"], "score": p["score"], "doc": {"contents": p["text"]}} for p in row["candidates"]]
    return {"query": {"text": row["question"], "qid": row["id"]}, "candidates": found}


def with_passages(row: dict[str, Any]) -> dict[str, Any]:
    passages = [{"title": passage["title"], "text": passage["text"]} for passage in row["candidates"]]
    return {"question": row["question"], "answers": row["answers"], "passages": passages}


def lines(rows: Iterable[Any]) -> Callable[[Path], object]:
    return lambda path: write_jsonl(path, rows)


def candidates(num: int) -> Callable[[Path], object]:
    return lines(questions(4, num))


def model(path: Path, kind: str = "gemma3") -> None:
    """Write a model with a layer in the upper half of Gemma 3 270M's, whose weights fill bitsandbytes' blocks."""
    layers = {"num_hidden_layers": 10, "layer_types": ["sliding_attention", "full_attention"] * 5}
    save_start(path, kind, hidden_size=64, intermediate_size=64, **(layers if kind == "gemma3" else {}))


def trained_pair(path: Path) -> None:
    start = save_start(path.parent / "start")
    rows = Dataset.from_list(questions(4, 6))
    trainer = make_trainer(path, model=start, train_dataset=rows, num_candidates=6, peft_config=LORA)
    trainer.train()
    trainer.save_model()


def passages_in_columns(path: Path) -> None:
    """Write passages as DPR distributes them: the tab-separated columns id, text, title, with gzip."""
    rows = [f"{passage['id']}\t{passage['text']}\t{passage['title']}\n" for passage in PASSAGES]
    path.write_bytes(gzip.compress(("id\ttext\ttitle\n" + "".join(rows)).encode()))


def run_file(path: Path) -> None:
    """Write the rankings of another tool, each question's own passage first."""
    ranked = [(q, p, rank) for q in range(4) for rank, p in enumerate([q, *(n for n in range(28) if n != q)], 1)]
    path.write_text("".join(f"q{q} Q0 p{p} {rank} {1 / rank} other\n" for q, p, rank in ranked))


def recipe(path: Path) -> None:
    """Write a recipe for two steps on a CPU, of a whole checkpoint each."""
    keys = {"model_name_or_path": "models/mine", "dataset_name": "data/train.top20.jsonl", "output_dir": "runs/recipe"}
    keys |= {"num_selected": 2, "num_selections": 3, "num_candidates": 6, "per_device_train_batch_size": 1}
    keys |= {"max_steps": 2, "save_steps": 1, "report_to": "none", "use_cpu": True}
    path.write_text(yaml.safe_dump(keys))


def lucene_index(path: Path) -> None:
    """Write an index of passages in the form of `wikipedia-dpr-100w`, in which a title stands on a line of its own."""
    documents = [{"id": p["id"], "contents": f'"{p["title"]}"\n{p["text"]}'} for p in PASSAGES]
    with jvm.JavaProcess() as java:
        java.request("create", index_dir=str(path), threads=1)
        java.request("add", documents=[json.dumps(document) for document in documents])
        java.request("commit", index_dir=str(path))


def prebuilt_folder(cache: Path, name: str) -> Path:
    """Return where Pyserini looks for a prebuilt index before it downloads it."""
    package = importlib.util.find_spec("pyserini")
    assert package is not None
    assert package.origin is not None
    source = (Path(package.origin).parent / "prebuilt_index_info.py").read_text()
    entry = source[source.index(f'"{name}": {{') :]
    found = [re.search(pattern, entry) for pattern in (r'"filename": "(.+)\.tar\.gz"', r'"md5": "(.+)"')]
    return cache / "indexes" / ".".join(match[1] for match in found if match)


RUN = {
    "output_dir": "runs/whole",
    "prepare": {
        "train": [
            {"format": "hotpotqa", "input": "data/hotpotqa_train.jsonl"},
            {"format": "2wikimultihopqa", "input": "data/2wiki_train.jsonl"},
        ],
        "dev": {"format": "hotpotqa", "input": "data/hotpotqa_dev.jsonl"},
    },
    "index": {"corpus": "corpus.jsonl"},
    "retrieve": {"num_candidates": 20},
    "train": {"recipe": "recipes/wikimultihop_gemma_270m_lora.yaml"},
    "evaluate": {"max_new_tokens": 4},
}
"""A run from files here."""

INPUTS: dict[str, Callable[[Path], object]] = {
    **dict.fromkeys(("corpus.jsonl", "wiki_pool_corpus.jsonl", "CORPUS", "FILE"), lines(PASSAGES)),
    **dict.fromkeys(("train.jsonl", "dev.jsonl", "nq.heldout.jsonl", "nq.dev.jsonl"), lines(questions())),
    "nq_open_dev.jsonl": lines(questions()),
    "psgs_w100.tsv.gz": passages_in_columns,
    "other.run.txt": run_file,
    **dict.fromkeys(
        ["hotpotqa_train.jsonl", "hotpotqa_dev.jsonl", "hotpotqa_dev_sample.jsonl", "2wiki_train.jsonl"],
        lines([of_hotpotqa(row) for row in questions()]),
    ),
    "google-research-datasets/nq_open": lambda path: [
        write_jsonl(path / f"{split}.jsonl", [of_nq_open(row) for row in questions()])
        for split in ("train", "validation")
    ],
    "hotpotqa/hotpot_qa": lambda path: (
        write_jsonl(path / "rows.jsonl", [of_hotpotqa(row, on_the_hub=True) for row in questions()]),
        (path / "README.md").write_text(HOTPOTQA_ON_THE_HUB),
    ),
    "run.yaml": lambda path: path.write_text(yaml.safe_dump(RUN)),
    "requests.jsonl": lines([of_rankllm(row) for row in questions(4, 5)]),
    "nq_train_800_top5.jsonl": lines([with_passages(row) for row in questions(4, 5)]),
    "train.top8.jsonl": candidates(8),
    "eval.top8.jsonl": candidates(8),
    "train.top20.jsonl": candidates(20),
    "train.bm25.jsonl": candidates(20),
    "dev.top20.jsonl": candidates(20),
    "dev60.top20.jsonl": candidates(20),
    "dev.hops.top20.jsonl": lines([{**row, "hops": 1 + number % 2} for number, row in enumerate(questions(4, 20))]),
    "dev.top100.jsonl": candidates(100),
    "train.mixed.top10.jsonl": candidates(10),
    "nq.more.top10.jsonl": candidates(10),
    "nq.train.top10.jsonl": candidates(10),
    "mh.answers.top20.jsonl": candidates(20),
    "gemma-3-270m": model,
    "mine": model,
    "other": model,
    "Qwen2.5-0.5B": lambda path: model(path, "qwen2"),
    "RECIPE.yaml": recipe,
    "wikimultihop": trained_pair,
}
"""How each is made, by its name without the folder, or with it where the folder is a part of the name."""


class Inputs:
    """Makes each input once, and copies it to where a page assumes it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def made(self, name: str) -> Path:
        path = self.folder / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            INPUTS[name](path)
        return path

    def provide(self, path: str, folder: Path) -> None:
        """Put what a page calls `path` into its folder."""
        name = path.rpartition("/")[2]
        if path.startswith("runs/"):
            name = "wikimultihop"
        source, target = self.made(path if path in INPUTS else name), folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if source.is_dir() else shutil.copyfile)(source, target)
        if name == "wikimultihop":  # It names what it started from as seen from its own folder.
            shutil.copytree(self.folder / "start", target.parent / "start", dirs_exist_ok=True)


def provide_repository(folder: Path) -> None:
    """Put `recipes/` and `examples/` into a folder, as in a clone; the studies with two methods and one seed."""
    (folder / "examples").symlink_to(ROOT / "examples")
    shutil.copytree(ROOT / "recipes", folder / "recipes")
    for path in (folder / "recipes" / "studies").iterdir():
        study = yaml.safe_load(path.read_text(encoding="utf-8"))
        study |= {"seeds": study["seeds"][:1], "methods": dict(list(study["methods"].items())[:2])}
        path.write_text(yaml.safe_dump(study, sort_keys=False), encoding="utf-8")
