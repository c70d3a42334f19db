"""`dro-trl ask` over a real Lucene index."""

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from dro_trl import PyseriniRetriever, RAGPipeline
from dro_trl.cli.app import app
from tests.helpers.tiny_models import tiny_questions


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    passages = [
        {"id": p["id"], "title": p["title"], "text": p["text"]}
        for row in tiny_questions(5, 5)
        for p in row["candidates"]
    ]
    folder = tmp_path_factory.mktemp("lucene") / "index"
    PyseriniRetriever.build(passages, folder, progress=False).close()
    return folder


def test_the_answer_and_the_passages_it_rests_on_are_printed(trained_pair, index):
    question = "Who founded the club of Lima?"
    command = [
        sys.executable,
        "-m",
        "dro_trl",
        "ask",
        question,
        "--model",
        str(trained_pair),
        "--index_dir",
        str(index),
        "--window_size",
        "3",  # Of four candidates; scores that see no other passage select the same.
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, env=None)
    assert done.returncode == 0, done.stderr
    with PyseriniRetriever(index) as retriever:
        pipeline = RAGPipeline.from_pretrained(trained_pair, retriever=retriever)
        assert pipeline.num_candidates == 4
        expected = pipeline(question)
    assert done.stdout.startswith(question)
    assert len(expected.passages) == 2
    for passage, score in zip(expected.passages, expected.scores, strict=True):
        assert f"{score:.2f}" in done.stdout
        assert passage["text"][:20] in done.stdout
    if expected.answer:
        assert expected.answer.split()[0] in done.stdout


@pytest.mark.parametrize("source", [[], ["--index_dir", "a", "--prebuilt", "b"]])
def test_one_index_is_needed(trained_pair, source):
    result = CliRunner().invoke(app, ["ask", "Who?", "--model", str(trained_pair), *source])
    assert result.exit_code == 2
    assert "give one of --index_dir and --prebuilt" in result.stderr


def test_a_missing_index_is_named(trained_pair, tmp_path):
    missing = str(tmp_path / "index")
    result = CliRunner().invoke(app, ["ask", "Who?", "--model", str(trained_pair), "--index_dir", missing])
    assert result.exit_code == 2
    assert missing in result.stderr


def test_a_question_of_stopwords_is_told(trained_pair, index):
    result = CliRunner().invoke(app, ["ask", "the of", "--model", str(trained_pair), "--index_dir", str(index)])
    assert result.exit_code == 2
    assert "question 'the of' has no candidates: no passage has a word of it, stopwords aside" in result.stderr
