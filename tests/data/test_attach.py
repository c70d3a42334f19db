"""The column of candidates and its cache, with counting retrievers and with real Lucene."""

import hashlib
import json
import re

import pytest
from datasets import Dataset

from dro_trl.data.attach import attach_candidates
from dro_trl.retrieval.base import Retriever
from dro_trl.retrieval.pyserini import PyseriniRetriever
from dro_trl.types import Passage


class CountingRetriever(Retriever):
    """Returns k passages that name the question, and counts how often it was asked."""

    def __init__(self, fingerprint: str | None = None) -> None:
        self.calls = 0
        if fingerprint is not None:
            self.fingerprint = fingerprint

    def retrieve(self, questions, k):
        self.calls += 1
        return [[self.passage(question, rank) for rank in range(k)] for question in questions]

    def passage(self, question: str, rank: int) -> Passage:
        return Passage(id=f"{question}/{rank}", title="", text=question, score=1 / (rank + 3))


@pytest.fixture
def dataset():
    return Dataset.from_dict({"question": ["one", "two", "three"], "answers": [["1"], ["2"], ["3"]]})


def test_adds_the_column_and_keeps_the_rest(dataset, tmp_path):
    attached = attach_candidates(dataset, CountingRetriever("f"), 2, cache_dir=tmp_path)
    assert attached.remove_columns("candidates").to_list() == dataset.to_list()
    assert attached[1]["candidates"] == [
        {"id": "two/0", "title": "", "text": "two", "score": 1 / 3},
        {"id": "two/1", "title": "", "text": "two", "score": 1 / 4},
    ]


def test_rows_stay_in_order_after_reordering(dataset, tmp_path):
    attached = attach_candidates(dataset.select([2, 0, 1]), CountingRetriever("f"), 1, cache_dir=tmp_path)
    assert attached["question"][:] == ["three", "one", "two"]
    assert [passages[0]["text"] for passages in attached["candidates"]] == ["three", "one", "two"]


def test_second_time_comes_from_the_cache(dataset, tmp_path):
    retriever = CountingRetriever("f")
    first = attach_candidates(dataset, retriever, 2, cache_dir=tmp_path)
    # The rest of a row does not matter, and another retriever with the same fingerprint is the same.
    second = attach_candidates(dataset.remove_columns("answers"), CountingRetriever("f"), 2, cache_dir=tmp_path)
    assert retriever.calls == 1
    assert second["candidates"][:] == first["candidates"][:]
    assert second.features["candidates"] == first.features["candidates"]
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("fingerprint", "k", "questions"),
    [("g", 2, ["one", "two"]), ("f", 3, ["one", "two"]), ("f", 2, ["two", "one"]), ("f", 2, ["one"])],
)
def test_anything_else_is_retrieved_anew(tmp_path, fingerprint, k, questions):
    attach_candidates(Dataset.from_dict({"question": ["one", "two"]}), CountingRetriever("f"), 2, cache_dir=tmp_path)
    retriever = CountingRetriever(fingerprint)
    attached = attach_candidates(Dataset.from_dict({"question": questions}), retriever, k, cache_dir=tmp_path)
    assert retriever.calls == 1
    assert [len(passages) for passages in attached["candidates"]] == [k] * len(questions)


def test_no_fingerprint_no_cache(dataset, tmp_path):
    retriever = CountingRetriever()
    for _ in range(2):
        attached = attach_candidates(dataset, retriever, 1, cache_dir=tmp_path)
    assert retriever.calls == 2
    assert attached[2]["candidates"][0]["id"] == "three/0"
    assert list(tmp_path.iterdir()) == []


def test_place_of_the_cache(dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("DRO_TRL_CACHE", str(tmp_path / "given"))
    attach_candidates(dataset, CountingRetriever("f"), 1)
    assert len(list((tmp_path / "given" / "candidates").glob("*.arrow"))) == 1
    monkeypatch.delenv("DRO_TRL_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    attach_candidates(dataset, CountingRetriever("f"), 1)
    assert len(list((tmp_path / ".cache" / "dro_trl" / "candidates").glob("*.arrow"))) == 1


def test_damaged_cache_is_named(dataset, tmp_path):
    attach_candidates(dataset, CountingRetriever("f"), 1, cache_dir=tmp_path)
    [file] = tmp_path.iterdir()
    file.write_bytes(b"not arrow")
    with pytest.raises(ValueError, match=re.escape(f"the cached candidates {file} are damaged")):
        attach_candidates(dataset, CountingRetriever("f"), 1, cache_dir=tmp_path)


def test_columns(dataset):
    with pytest.raises(ValueError, match="the dataset has no column 'question'; it has answers"):
        attach_candidates(dataset.remove_columns("question"), CountingRetriever(), 1)
    with pytest.raises(ValueError, match=re.escape("drop it first with dataset.remove_columns('candidates')")):
        attach_candidates(dataset.add_column("candidates", [[], [], []]), CountingRetriever(), 1)


def test_rows_without_candidates_are_named_and_not_cached(dataset, tmp_path):
    class Forgetful(CountingRetriever):
        def retrieve(self, questions, k):
            return [[] if "t" in question else [self.passage(question, 0)] for question in questions]

    message = "the retriever found nothing for 2 of 3 rows: 1 ('two'), 2 ('three'); reword or drop"
    with pytest.raises(ValueError, match=re.escape(message)):
        attach_candidates(dataset, Forgetful("f"), 1, cache_dir=tmp_path)
    many = Dataset.from_dict({"question": [f"t{number}" for number in range(9)]})
    with pytest.raises(ValueError, match=re.escape("4 ('t4') and 4 more; reword")):
        attach_candidates(many, Forgetful("f"), 1, cache_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_many_questions_are_asked_in_batches_under_the_name_they_always_had(tmp_path):
    questions = [f"é {number}" for number in range(2_500)]
    retriever = CountingRetriever("f")
    attached = attach_candidates(Dataset.from_dict({"question": questions}), retriever, 2, cache_dir=tmp_path)
    assert retriever.calls == 3
    assert [passages[1]["id"] for passages in attached["candidates"]] == [f"{question}/1" for question in questions]
    name = hashlib.sha256(json.dumps([questions, "f", 2]).encode()).hexdigest()
    assert [file.name for file in tmp_path.iterdir()] == [f"{name}.arrow"]


def test_wrong_number_of_lists(dataset):
    class Short(CountingRetriever):
        def retrieve(self, questions, k):
            return super().retrieve(questions, k)[1:]

    with pytest.raises(ValueError, match="returned 2 lists of passages for 3 questions"):
        attach_candidates(dataset, Short(), 1)


@pytest.mark.parametrize(
    ("change", "found"),
    [({"score": None}, "score: NoneType"), ({"id": 3}, "id: int"), ({"url": "x"}, "url: str")],
)
def test_wrong_passages(dataset, change, found):
    class Wrong(CountingRetriever):
        def passage(self, question, rank):
            return super().passage(question, rank) | change

    with pytest.raises(ValueError, match=rf"row 0: the retriever returned a passage with .*{found}.* need .id: str"):
        attach_candidates(dataset, Wrong(), 1)


def test_with_lucene(tmp_path):
    passages = [{"id": str(n), "title": f"Title {n}", "text": f"word{n} common"} for n in range(5)]
    questions = Dataset.from_dict({"question": ["word3", "common word1"]})
    with PyseriniRetriever.build(passages, tmp_path / "index") as retriever:
        attached = attach_candidates(questions, retriever, 2, cache_dir=tmp_path / "cache")
        fresh = retriever.retrieve(questions["question"][:], 2)
    # Closed: only the cache can answer now.
    cached = attach_candidates(questions, retriever, 2, cache_dir=tmp_path / "cache")
    assert attached["candidates"][:] == cached["candidates"][:] == fresh
    assert [[passage["id"] for passage in row] for row in fresh] == [["3"], ["1", "0"]]
