"""How well Lucene's BM25 agrees with an independent one (bm25s), and how fast each is, on the same passages.

    python examples/benchmarks/bm25_agreement.py --corpus wiki_pool_corpus.jsonl --questions nq_open_dev.jsonl

Both get the terms that Lucene's analyzer makes, so that only the scoring differs. Two things differ by design: Lucene
stores a passage's length in one byte (exact below 40 terms, coarser above), and Anserini rounds scores to 4 decimals.
bm25s is given the terms ready-made: its times leave out reading and analysing the texts.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import bm25s
from rich.console import Console
from rich.table import Table

from dro_trl import Passage, PyseriniRetriever
from dro_trl.files.text_rows import read_objects
from dro_trl.files.writing import write_json
from dro_trl.retrieval.corpus import read_corpus

K1, B = 0.9, 0.4


def compare(corpus: Path, questions: Sequence[str], k: int = 10) -> dict[str, Any]:
    """Index the corpus with both, ask both the questions, and return agreement and speeds."""
    passages = list(read_corpus(corpus))
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        with PyseriniRetriever.build(corpus, Path(folder) / "index", k1=K1, b=B) as lucene:
            lucene_index_s = time.perf_counter() - start
            lucene.retrieve(questions[:100], k)  # Java compiles what it has run often
            start = time.perf_counter()
            found = lucene.retrieve(questions, k)
            lucene_search_s = time.perf_counter() - start
            passage_terms = lucene.analyze([f"{passage['title']}\n{passage['text']}" for passage in passages])
            question_terms = lucene.analyze(questions)
    other = bm25s.BM25(method="lucene", k1=K1, b=B)
    start = time.perf_counter()
    other.index(passage_terms, show_progress=False)
    other_index_s = time.perf_counter() - start
    start = time.perf_counter()
    numbers, scores = other.retrieve(question_terms, k=k, show_progress=False)
    other_search_s = time.perf_counter() - start
    ids = [passage["id"] for passage in passages]
    theirs = [
        {ids[number]: float(score) for number, score in zip(row, row_scores, strict=True) if score > 0}
        for row, row_scores in zip(numbers, scores, strict=True)
    ]
    return {
        "passages": len(passages),
        "questions": len(questions),
        "k": k,
        "cores": os.cpu_count(),
        "agreement": agreement(found, theirs),
        "lucene": speeds(len(passages), lucene_index_s, len(questions), lucene_search_s),
        "bm25s": speeds(len(passages), other_index_s, len(questions), other_search_s),
    }


def agreement(ours: list[list[Passage]], theirs: list[dict[str, float]]) -> dict[str, float]:
    """Return mean top-1 agreement, mean overlap of the top k, and the largest and mean score difference."""
    top1, overlap, differences = [], [], []
    for passages, scores in zip(ours, theirs, strict=True):
        if not passages and not scores:
            continue  # nothing but stopwords: both find nothing
        mine = {passage["id"]: passage["score"] for passage in passages}
        top1.append(next(iter(mine), None) == next(iter(scores), None))
        overlap.append(len(mine.keys() & scores.keys()) / max(len(mine), len(scores)))
        differences += [abs(mine[id] - scores[id]) / scores[id] for id in mine.keys() & scores.keys()]
    return {
        "questions": len(top1),
        "top1": sum(top1) / len(top1),
        "overlap": sum(overlap) / len(overlap),
        "score_difference_mean": sum(differences) / len(differences),
        "score_difference_max": max(differences),
    }


def speeds(passages: int, index_s: float, questions: int, search_s: float) -> dict[str, float]:
    """Return passages indexed and questions answered a second."""
    return {"passages_per_s": passages / index_s, "questions_per_s": questions / search_s}


def show(result: dict[str, Any]) -> None:
    """Print agreement and speeds as two tables."""
    found, k = result["agreement"], result["k"]
    about = f"{result['passages']:,} passages, {found['questions']:,} questions with terms"
    table = Table("top-1", f"overlap@{k}", "score difference, mean", "largest", title=f"Lucene and bm25s: {about}")
    relative = (f"{found[f'score_difference_{kind}']:.2%}" for kind in ("mean", "max"))
    table.add_row(f"{found['top1']:.3f}", f"{found['overlap']:.3f}", *relative)
    Console().print(table)
    table = Table("system", "passages/s, index", f"questions/s, k={k}", title=f"Speed on {result['cores']} cores")
    for system in ("lucene", "bm25s"):
        table.add_row(system, *(f"{value:,.0f}" for value in result[system].values()))
    Console().print(table)


def main() -> None:
    """Compare, print, and write JSON."""
    parser = argparse.ArgumentParser(description="Agreement of Lucene's BM25 with bm25s, and the speed of both.")
    parser.add_argument("--corpus", type=Path, required=True, help="JSONL of id, title, text")
    parser.add_argument("--questions", type=Path, required=True, help="JSONL with a field 'question'")
    parser.add_argument("--limit", type=int, help="use the first LIMIT questions")
    parser.add_argument("-k", type=int, default=10)
    parser.add_argument("--output", type=Path, default=Path("bm25_agreement.json"))
    options = parser.parse_args()
    questions = [row["question"] for _, row in read_objects(options.questions)][: options.limit]
    result = compare(options.corpus, questions, options.k)
    show(result)
    write_json(options.output, result)
    print(f"wrote {options.output}")


if __name__ == "__main__":
    main()
