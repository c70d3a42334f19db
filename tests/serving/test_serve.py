"""`dro-trl serve` as a process, asked over HTTP."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest

from dro_trl import PyseriniRetriever, RAGPipeline, Selector
from tests.helpers.tiny_models import tiny_questions
from tests.helpers.training import make_trainer, save_start

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")
pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")

ROWS = tiny_questions(4, 9, 6, 4)
LIMITS = ["--max_passages", "9", "--max_characters", "500", "--max_body_bytes", "20000"]


@contextlib.contextmanager
def serving(*arguments):
    """Start a server at any free port, and yield its address and process; it is ended at the end."""
    command = [sys.executable, "-m", "dro_trl", "serve", "--port", "0", "--dtype", "float32", *map(str, arguments)]
    environment = {**os.environ, "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        try:
            said = []
            for line in process.stderr:
                said.append(line)
                if found := re.match(r"Serving on (http://127\.0\.0\.1:\d+)$", line):
                    yield found[1], process
                    break
            else:
                pytest.fail(f"the server did not start: {''.join(said)[-3000:]}")
        finally:
            process.kill()


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    make_trainer(folder / "pair", model=save_start(folder / "start"), num_candidates=4).save_model()
    passages = [{name: p[name] for name in ("id", "title", "text")} for row in ROWS for p in row["candidates"]]
    PyseriniRetriever.build(passages, folder / "index", progress=False).close()
    return folder / "pair"


@pytest.fixture(scope="module")
def server(pair):
    """The address of a server that answers and retrieves."""
    with serving("--model_name_or_path", pair, "--index_dir", pair.parent / "index", *LIMITS) as (address, _):
        yield address


def ask(address, path, body=None):
    """Return the status of a request and what it is answered with."""
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    request = urllib.request.Request(address + path, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_ranking_is_that_of_the_selector(server, pair):
    selector = Selector.from_pretrained(pair, dtype="float32")
    for row, top_k in zip(ROWS, (None, 3, 1, 99), strict=True):
        body = {"query": row["question"], "documents": row["candidates"], "top_k": top_k, "return_documents": True}
        status, found = ask(server, "/rank", body)
        expected = selector.rank(row["question"], row["candidates"], top_k, return_documents=True)
        assert status == 200
        assert [{**one, "score": pytest.approx(one["score"], abs=1e-4)} for one in expected] == found["results"]


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank"])
def test_the_bodies_of_others_are_read_and_answered_as_theirs(server, pair, path):
    row = ROWS[1]
    texts = [passage["text"] for passage in row["candidates"]]
    expected = Selector.from_pretrained(pair, dtype="float32").rank(row["question"], texts, 3)
    body = {"model": "rerank-v3.5", "query": row["question"], "documents": texts, "top_n": 3, "max_tokens_per_doc": 9}
    status, found = ask(server, path, body)
    assert status == 200
    assert (found["id"][:7], found["model"]) == ("rerank-", str(pair))
    scores = [one["relevance_score"] for one in found["results"]]
    assert scores == pytest.approx([one["score"] for one in expected], abs=1e-4)
    assert [one["index"] for one in found["results"]] == [one["corpus_id"] for one in expected]
    assert [one["document"]["text"] for one in found["results"]] == [texts[one["corpus_id"]] for one in expected]
    status, found = ask(
        server, path, {**body, "documents": [{"text": text} for text in texts], "return_documents": False}
    )
    assert [one["index"] for one in found["results"]] == [one["corpus_id"] for one in expected]
    assert all("document" not in one for one in found["results"])


def test_questions_that_come_together_get_each_its_own_answer(server, pair):
    pipeline = RAGPipeline.from_pretrained(pair, dtype="float32")
    with PyseriniRetriever(pair.parent / "index") as retriever:
        found = retriever.retrieve([row["question"] for row in ROWS], 4)
    rows = [*ROWS, *({**row, "candidates": passages} for row, passages in zip(ROWS, found, strict=True))]
    bodies = [{"question": row["question"], "passages": row["candidates"]} for row in ROWS]
    bodies += [{"question": row["question"], "max_new_tokens": 32} for row in ROWS]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda body: ask(server, "/answer", body), bodies))
    for expected, (status, answer) in zip(pipeline.predict(rows), answers, strict=True):
        assert status == 200, answer
        assert (answer["question"], answer["answer"]) == (expected.question, expected.answer)
        assert [p["text"] for p in answer["passages"]] == [p["text"] for p in expected.passages]
        assert answer["scores"] == pytest.approx(expected.scores, abs=1e-4)


PASSAGES = ["one", "two"]


@pytest.mark.parametrize(
    ("path", "body", "status", "detail"),
    [
        ("/rank", b"{", 422, "JSON decode error"),
        ("/rank", {"query": "Who?"}, 422, "documents: Field required"),
        ("/rank", {"query": "Who?", "documents": PASSAGES, "topk": 1}, 422, "topk: Extra inputs are not permitted"),
        ("/rank", {"query": "Who?", "documents": PASSAGES, "top_k": 0}, 422, "top_k: Input should be greater"),
        ("/rank", {"query": "Who?", "documents": ["one", ""]}, 422, "field 'documents[1].text': found empty text"),
        ("/rank", {"query": " ", "documents": PASSAGES}, 422, "field 'query': found empty text"),
        ("/rank", {"query": "Who?", "documents": ["one"] * 10}, 422, "documents: 10 are more than this server reads"),
        ("/rank", {"query": "Who?", "documents": ["x" * 501]}, 422, "documents[0].text has 501 characters, more than"),
        ("/v1/rerank", {"query": "x" * 501, "documents": PASSAGES}, 422, "the question has 501 characters, more than"),
        (
            "/rank",
            {"query": "Who?", "documents": PASSAGES, "x": "x" * 20000},
            413,
            "the body has more than 20000 bytes",
        ),
        ("/answer", {"question": "Who?", "passages": ["one"]}, 422, "has 1 candidates, fewer than num_selected=2"),
        ("/answer", {"question": "Who?", "passages": PASSAGES, "max_new_tokens": 257}, 422, "max_new_tokens: 257 is"),
        ("/answer", {"question": "of the"}, 422, "question 'of the' has no candidates"),
        ("/answer", {"question": ""}, 422, "question: found empty text"),
        ("/rerank", {}, 404, "Not Found"),
    ],
)
def test_what_is_refused_is_said_in_a_line(server, path, body, status, detail):
    found, answer = ask(server, path, body)
    assert found == status
    assert detail in answer["detail"]
    assert "\n" not in answer["detail"]


def test_health_says_what_there_is(server, pair):
    status, found = ask(server, "/health")
    assert (status, found["status"], found["model"]) == (200, "ok", str(pair))
    assert (found["answers"], found["retrieves"], found["waiting"]) == (True, True, 0)


def test_a_request_that_has_come_is_answered_before_the_end(pair):
    """The selector is served alone here; SIGTERM comes while a request is on its way."""
    with serving("--model_name_or_path", pair, "--selector_only") as (address, process):
        assert ask(address, "/health")[1]["answers"] is False
        assert ask(address, "/answer", {"question": "Who?"})[0] == 404
        many = {"query": "Who founded the club?", "documents": ["The club of Oslo was founded by Ada. " * 20] * 200}
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(ask, address, "/rank", many)
            while ask(address, "/health")[1]["waiting"] == 0:
                assert not asked.done()
            process.send_signal(signal.SIGTERM)
            status, found = asked.result()
        assert (status, len(found["results"])) == (200, 200)
        assert process.wait(30) == 0
        assert "Stopped" in process.stderr.read()
        with pytest.raises(urllib.error.URLError):
            ask(address, "/health")


def test_an_address_in_use_is_told_at_once(pair):
    from typer.testing import CliRunner

    from dro_trl.cli.app import app

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = CliRunner().invoke(app, ["serve", "--model_name_or_path", str(pair), "--port", port])
    assert result.exit_code == 2
    assert f"error: --host 127.0.0.1 --port {port}: Address already in use; give others" in result.stderr
    result = CliRunner().invoke(
        app, ["serve", "--model_name_or_path", str(pair), "--port", "0", "--selector_only", "--prebuilt", "x"]
    )
    assert "error: --selector_only answers nothing" in result.stderr
