"""Damaged records of an index, passages stored in one and cached candidates are right, or refused with the file."""

import json
import re

import pytest
from datasets import Dataset
from hypothesis import strategies as st

from dro_trl import Retriever
from dro_trl.data.attach import attach_candidates
from dro_trl.retrieval import pyserini
from dro_trl.retrieval.jvm import JavaProcess
from dro_trl.retrieval.pyserini import PyseriniRetriever
from tests.fuzz.mutations import file_of, json_text, mutated
from tests.fuzz.oracles import json_of
from tests.fuzz.outcomes import REFUSED, RIGHT, attempt, holding

CORPUS = [{"id": f"d{number}", "title": "Oslo", "text": f"town number {number}"} for number in range(3)]
RECORDS = ("dro_trl_index.json", ".dro_trl_verified.json")
STORED = [
    {"id": "1", "title": "Oslo", "contents": "Oslo\nA town."},
    {"id": "1", "contents": '"The ""old"" town"\nA town.'},
    {"_id": "1", "title": "Oslo", "text": "A town.", "metadata": {}},
]


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    """An index, and one Java process in which all retrievers of this module search."""
    folder = tmp_path_factory.mktemp("index") / "index"
    with (
        PyseriniRetriever.build(CORPUS, folder, progress=False),
        JavaProcess() as java,
        pytest.MonkeyPatch.context() as m,
    ):
        m.setattr(java, "close", lambda: None)
        m.setattr(pyserini, "JavaProcess", lambda **_: java)
        yield folder
        m.undo()


@st.composite
def records(draw, folder):
    name = draw(st.sampled_from(RECORDS))
    value = draw(
        mutated(st.just(json.loads((folder / name).read_text())), ("passages", "corpus_sha256", "bytes", "x"))
    )
    return name, draw(file_of(draw(json_text(value))))


def once(pairs):
    """Return pairs as an object, and none where a key stands twice."""
    return dict(pairs) if len(dict(pairs)) == len(pairs) else None


def is_record(content):
    try:
        value = json.loads(content.decode(), object_pairs_hook=once)
    except (ValueError, RecursionError):
        return False
    hashed = value.get("corpus_sha256") if isinstance(value, dict) else None
    count = value.get("passages") if isinstance(value, dict) else None
    return bool(re.fullmatch("[0-9a-f]{64}", str(hashed))) and type(count) is int and count == len(CORPUS)


def check_record(folder, name, content):
    with holding(folder / name, content):
        found, _ = attempt(lambda: PyseriniRetriever(folder).retrieve(["number 2"], 1), folder / name)
    assert (found is None) == (name == RECORDS[0] and not is_record(content))
    if found is None:
        return REFUSED
    assert [(passage["id"], passage["text"]) for passage in found[0]] == [("d2", "town number 2")]
    return RIGHT


def check_stored(retriever, raw):
    passage, message = attempt(lambda: retriever._passage("1", 0.5, raw), retriever.index)
    if passage is None:
        assert "passage '1'" in message
        return REFUSED
    stored = json_of(raw)
    text, contents = stored.get("text"), stored.get("contents")
    quoted = passage["title"].replace('"', '""')
    forms = [passage["text"], f"{passage['title']}\n{passage['text']}", f'"{quoted}"\n{passage["text"]}']
    assert passage["text"] == text if text is not None else contents in forms
    assert stored.get("title") in (None, passage["title"])
    return RIGHT


def encodable(text):
    """Return what Java passes on of a text: no half of a surrogate pair that is not escaped."""
    return text.encode("utf-8", "replace").decode()


class Numbered(Retriever):
    fingerprint = "0123"

    def retrieve(self, questions, k):
        return [[{"id": str(one), "title": "", "text": q, "score": 1.0} for one in range(k)] for q in questions]


def check_cached(folder, content_of):
    questions = Dataset.from_dict({"question": [f"question {number}" for number in range(5)]})
    expected = attach_candidates(questions, Numbered(), 2, cache_dir=folder).to_list()
    [file] = folder.glob("*.arrow")
    with holding(file, content_of(file.read_bytes())):
        again = attempt(lambda: attach_candidates(questions, Numbered(), 2, cache_dir=folder).to_list(), file)[0]
    assert again in (None, expected)
    return REFUSED if again is None else RIGHT


def test_records(index, explore):
    explore(records(index), lambda record: check_record(index, *record), 100)


def test_stored_passages(index, explore):
    retriever = PyseriniRetriever(index)
    explore(
        mutated(st.sampled_from(STORED), ("title", "text", "contents")).flatmap(json_text).map(encodable),
        lambda raw: check_stored(retriever, raw),
        150,
    )


def test_cached_candidates(tmp_path, explore):
    shares = st.floats(0, 1).map(lambda share: lambda content: content[: round(share * len(content))])
    explore(shares | st.just(lambda content: content), lambda content: check_cached(tmp_path, content), 60)
