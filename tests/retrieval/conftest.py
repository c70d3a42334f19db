"""One small index that the tests of retrieval share."""

from pathlib import Path

import pytest

from dro_trl.retrieval.pyserini import PyseriniRetriever

PASSAGES = [
    {"id": "a", "title": "Radium", "text": "Marie found radium"},
    {"id": "b", "title": "Polonium", "text": "Marie found polonium near Paris"},
    {"id": "c", "title": "Paris", "text": "Paris lies north"},
    {"id": "d", "title": "", "text": "north wind"},
]


@pytest.fixture(scope="session")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small") / "index"
    PyseriniRetriever.build(PASSAGES, folder).close()
    return folder


@pytest.fixture(scope="module")
def retriever(index: Path):
    with PyseriniRetriever(index) as opened:
        yield opened
