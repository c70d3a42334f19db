"""Lucene on the real corpus: agreement with an independent BM25, and the same result on any number of threads."""

import importlib.util
import json
from itertools import islice
from pathlib import Path

import pytest

from dro_trl.retrieval.corpus import read_corpus
from dro_trl.retrieval.pyserini import PyseriniRetriever

BENCHMARK = Path(__file__).resolve().parents[2] / "examples" / "benchmarks" / "bm25_agreement.py"
pytestmark = pytest.mark.realdata


def questions_of(folder: Path, count: int) -> list[str]:
    with open(folder / "nq_open_dev.jsonl", encoding="utf-8") as lines:
        return [json.loads(line)["question"] for line, _ in zip(lines, range(count), strict=False)]


def test_agrees_with_bm25s(shared_data):
    specification = importlib.util.spec_from_file_location("bm25_agreement", BENCHMARK)
    benchmark = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(benchmark)
    result = benchmark.compare(shared_data / "wiki_pool_corpus.jsonl", questions_of(shared_data, 400), k=10)
    assert result["passages"] == 18_373
    # What remains is Lucene's one-byte passage length; the bounds lie a little under what was measured.
    assert result["agreement"]["top1"] >= 0.95
    assert result["agreement"]["overlap"] >= 0.95
    assert result["agreement"]["score_difference_mean"] <= 0.01


def test_threads_change_nothing(shared_data, tmp_path):
    corpus = list(islice(read_corpus(shared_data / "wiki_pool_corpus.jsonl"), 6_000))
    questions = questions_of(shared_data, 300)
    with (
        PyseriniRetriever.build(corpus, tmp_path / "one", threads=1) as one,
        PyseriniRetriever.build(corpus, tmp_path / "four", threads=4) as four,
    ):
        assert one.retrieve(questions, 20) == four.retrieve(questions, 20)
