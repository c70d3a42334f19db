"""`dro-trl ask` over a real Lucene index."""

import json
import os
import pty
import subprocess
import sys
from dataclasses import asdict

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
        "--model_name_or_path",
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


@pytest.mark.parametrize("source", [[], ["--index_dir", "INDEX", "--prebuilt", "b"]])
def test_one_index_is_needed(trained_pair, index, source):
    words = [str(index) if word == "INDEX" else word for word in source]
    result = CliRunner().invoke(app, ["ask", "Who?", "--model_name_or_path", str(trained_pair), *words])
    assert result.exit_code == 2
    assert "give one of --index_dir and --prebuilt" in result.stderr


def test_a_missing_index_is_named(trained_pair, tmp_path):
    missing = str(tmp_path / "index")
    result = CliRunner().invoke(
        app, ["ask", "Who?", "--model_name_or_path", str(trained_pair), "--index_dir", missing]
    )
    assert result.exit_code == 2
    assert missing in result.stderr


def test_a_question_of_stopwords_is_told(trained_pair, index):
    result = CliRunner().invoke(
        app, ["ask", "the of", "--model_name_or_path", str(trained_pair), "--index_dir", str(index)]
    )
    assert result.exit_code == 2
    assert "question 'the of' has no candidates: no passage has a word of it, stopwords aside" in result.stderr


def asked(pair, index, *arguments, **options):
    command = ["ask", "--model_name_or_path", str(pair), "--index_dir", str(index), "--dtype", "float32", *arguments]
    return CliRunner().invoke(app, command, **options)


def answers(pair, index, questions, max_new_tokens=32, **options):
    with PyseriniRetriever(index, **options) as retriever:
        pipeline = RAGPipeline.from_pretrained(pair, retriever=retriever, dtype="float32")
        return [asdict(output) for output in pipeline(questions, max_new_tokens=max_new_tokens)]


QUESTIONS = [row["question"] for row in tiny_questions(4, 4, 4)]


def test_a_file_of_questions_is_answered_as_json(trained_pair, index, tmp_path):
    path = tmp_path / "questions.jsonl"
    rows = [{"id": "q0", "question": QUESTIONS[0]}, {"question": QUESTIONS[1]}, {"id": 7, "question": QUESTIONS[2]}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    more = ["--k1", "2", "--b", "0.9", "--max_new_tokens", "3", "--per_device_eval_batch_size", "2"]
    result = asked(trained_pair, index, "--input", str(path), "--json", *more)
    assert result.exit_code == 0, result.stderr
    found = [json.loads(line) for line in result.stdout.splitlines()]
    assert [one.pop("id") for one in found] == ["q0", "2", "7"]
    for one, expected in zip(found, answers(trained_pair, index, QUESTIONS, 3, k1=2, b=0.9), strict=True):
        assert one.pop("scores") == pytest.approx(expected.pop("scores"), abs=1e-4)
        assert one == expected
    [plain] = answers(trained_pair, index, QUESTIONS[:1])
    assert [p["score"] for p in plain["passages"]] != [p["score"] for p in found[0]["passages"]]


def test_questions_that_are_piped_in_are_answered_in_turn(trained_pair, index):
    result = asked(trained_pair, index, "--json", input=f"{QUESTIONS[0]}\n\n  {QUESTIONS[2]}\n")
    assert result.exit_code == 0, result.stderr
    found = [json.loads(line) for line in result.stdout.splitlines()]
    assert [one["question"] for one in found] == [QUESTIONS[0], QUESTIONS[2]]
    assert [one["answer"] for one in found] == [one["answer"] for one in answers(trained_pair, index, QUESTIONS[::2])]


def test_no_question_and_two_sources_are_told(trained_pair, index, tmp_path):
    result = asked(trained_pair, index, input="\n")
    assert result.exit_code == 2
    assert 'standard input holds no question; give one, such as dro-trl ask "Who' in result.stderr
    (tmp_path / "q.jsonl").write_text('{"question": "Who?"}')
    result = asked(trained_pair, index, "Who?", "--input", str(tmp_path / "q.jsonl"))
    assert (result.exit_code, "give a question or --input" in result.stderr) == (2, True)


def test_at_a_terminal_questions_are_typed_until_an_empty_line(trained_pair, index):
    """A process at a pseudo terminal: one question that finds nothing, one that is answered, and an empty line."""
    command = [
        sys.executable,
        "-m",
        "dro_trl",
        "ask",
        "--model_name_or_path",
        str(trained_pair),
        "--index_dir",
        str(index),
        "--json",
    ]
    primary, secondary = pty.openpty()
    with subprocess.Popen(
        command, stdin=secondary, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        os.close(secondary)
        os.write(primary, f"of the\n{QUESTIONS[1]}\n\n".encode())
        stdout, stderr = process.communicate(timeout=280)
    os.close(primary)
    assert process.returncode == 0, stderr
    assert "error: question 'of the' has no candidates" in stderr
    [line] = [line for line in stdout.splitlines() if '"answer"' in line]
    assert json.loads(line[line.index("{") :])["question"] == QUESTIONS[1]
