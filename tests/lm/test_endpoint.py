"""Answers by a server: a stand-in that records what it is asked and answers as vLLM does, and `transformers serve`."""

import contextlib
import json
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from typer.testing import CliRunner

from dro_trl import GeneratorEndpoint, RAGPipeline, exact_match_reward
from dro_trl.cli.app import app
from dro_trl.evaluation.evaluator import evaluate_pair
from dro_trl.lm import encoding, endpoint, prompts
from dro_trl.lm.generation import generate_answers
from tests.helpers.tiny_models import tiny_model, tiny_questions, tiny_tokenizer
from tests.helpers.training import make_trainer, questions, save_start

ROWS = tiny_questions(4, 5, 6, 4)
QUESTIONS, PASSAGES = [row["question"] for row in ROWS], [row["candidates"][:2] for row in ROWS]
OF_VLLM = {
    "id": "cmpl-6f1f", "object": "text_completion", "created": 1764288000, "model": "generator",
    "choices": [
        {"index": 0, "text": "", "logprobs": None, "finish_reason": "stop", "stop_reason": None}
    ],
    "usage": {"prompt_tokens": 41, "total_tokens": 46, "completion_tokens": 5, "prompt_tokens_details": None},
}  # fmt: skip


@contextlib.contextmanager
def stand_in(answer, models=("generator",)):
    """Yield the address of a server and what it was asked; `answer` returns a status and a body."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.reply(200, {"object": "list", "data": [{"id": name} for name in models]})

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append((self.path, body, self.headers.get("Authorization")))
            self.reply(*answer(body, len(asked)))

        def reply(self, status, body):
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1", asked
        server.shutdown()


def with_text(text):
    return {**OF_VLLM, "choices": [{**OF_VLLM["choices"][0], "text": text}]}


@pytest.mark.parametrize("chat", [False, True])
def test_prompts_go_as_the_tokens_that_training_reads_and_answers_come_back_in_order(chat, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-1")
    tokenizer = tiny_tokenizer(chat=chat)
    said = [prompts.generator_prompt(q, p) for q, p in zip(QUESTIONS, PASSAGES, strict=True)]
    expected = encoding.encode_all(tokenizer, [encoding.render(tokenizer, text) for text in said])

    def answer(body, number):
        place = expected.index(body["prompt"])
        time.sleep(0.02 * (len(expected) - place))  # The last is answered first.
        return 200, with_text(f"\n answer {place} \nQuestion: and on")

    with stand_in(answer) as (url, asked):
        found = generate_answers(GeneratorEndpoint(url + "/"), tokenizer, QUESTIONS, PASSAGES, max_new_tokens=9)
    assert found == [f"answer {place}" for place in range(4)]
    for path, body, key in asked:
        assert (path, key) == ("/v1/completions", "Bearer sk-1")
        assert {**body, "prompt": None} == {"model": "generator", "prompt": None, "max_tokens": 9, "temperature": 0.0}


def test_a_busy_server_is_asked_again_and_one_that_stays_so_is_told(monkeypatch):
    monkeypatch.setattr(endpoint.time, "sleep", lambda seconds: None)
    with stand_in(lambda body, number: (503, {}) if number < 3 else (200, with_text("late"))) as (url, asked):
        assert GeneratorEndpoint(url).write(tiny_tokenizer(), [[1, 2]], 3) == ["late"]
        assert len(asked) == 3
    with (
        stand_in(lambda body, number: (500, {"error": "out of\nmemory"})) as (url, _),
        pytest.raises(ConnectionError, match=r"completions answers 500: .*memory.* \(asked 3 times\)"),
    ):
        GeneratorEndpoint(url).write(tiny_tokenizer(), [[1, 2]], 3)
    with pytest.raises(
        ConnectionError, match=r"/models names no models \(.*Connection refused.*; give generator_model"
    ):
        GeneratorEndpoint(url)


def test_a_server_that_takes_text_alone_gets_it_without_what_its_tokenizer_adds(caplog):
    tokenizer = tiny_tokenizer()

    def answer(body, number):
        is_text = isinstance(body["prompt"], str)
        return (200, with_text(body["prompt"])) if is_text else (400, {"detail": "prompt must be a string."})

    prompts_ = [tokenizer("Who founded Oslo?")["input_ids"], tokenizer("Ada")["input_ids"]]
    with stand_in(answer) as (url, asked):
        assert GeneratorEndpoint(url).write(tokenizer, prompts_, 3) == ["Who founded Oslo?", "Ada"]
        assert len(asked) == 3
    assert "takes no token ids" in caplog.text
    with (
        stand_in(lambda body, number: (404, {"detail": "no such model"})) as (url, _),
        pytest.raises(ConnectionError, match="completions answers 404: .*no such model"),
    ):
        GeneratorEndpoint(url).write(tokenizer, prompts_, 3)


def test_what_does_not_go_together_is_told(tmp_path):
    with pytest.raises(ValueError, match="generator_url='localhost:8000' is no address of HTTP"):
        GeneratorEndpoint("localhost:8000")
    with stand_in(None, models=("a", "b")) as (url, _):
        with pytest.raises(ValueError, match="serves a, b; say which by generator_model"):
            GeneratorEndpoint(url)
        assert GeneratorEndpoint(url, "b").model == "b"
    with (
        stand_in(lambda body, number: (200, {"choices": []})) as (url, _),
        pytest.raises(ConnectionError, match="completions answered .* without a text"),
    ):
        GeneratorEndpoint(url).write(tiny_tokenizer(), [[1]], 3)


def answering_as(model):
    """Answer requests for the log-probabilities of a prompt as vLLM does, each by what a model makes of it."""

    def answer(body, number):
        assert (body["max_tokens"], body["prompt_logprobs"]) == (1, 0)
        with torch.no_grad():
            found = model(torch.tensor([body["prompt"]])).logits[0].log_softmax(-1).tolist()
        tokens = zip(found, body["prompt"][1:], strict=False)
        said = [{str(token): {"logprob": at[token], "rank": 1, "decoded_token": "x"}} for at, token in tokens]
        return 200, {**OF_VLLM, "choices": [{**OF_VLLM["choices"][0], "prompt_logprobs": [None, *said]}]}

    return answer


def test_training_takes_the_likelihood_of_answers_from_a_server(tmp_path):
    """And the numbers are those of the same generator here; each prompt and answer is asked for once."""
    logs = []
    given = {"train_generator": False, "likelihood_aliases": "best", "max_steps": 3, "num_selections": 2}
    given["train_dataset"] = Dataset.from_list(ROWS[:2])
    with stand_in(answering_as(tiny_model("llama", tiny_tokenizer()))) as (url, asked):
        for where in ({}, {"generator_url": url}):
            trainer = make_trainer(tmp_path / str(len(logs)), **given, **where)
            trainer.train()
            logs.append(
                [log[name] for log in trainer.state.log_history if "reward" in log for name in ("loss", "reward")]
            )
    assert logs[1] == pytest.approx(logs[0], abs=1e-4)
    sent = [tuple(body["prompt"]) for _, body, _ in asked]
    assert len(sent) == len(set(sent)) > 2


def test_training_rewards_answers_that_a_server_writes(tmp_path):
    with stand_in(lambda body, number: (200, with_text(" Ada Lima"))) as (url, asked):
        given = {"train_generator": False, "generator_url": url, "eval_strategy": "steps", "eval_steps": 2}
        given |= {"eval_dataset": questions(), "predict_with_generate": True, "eval_max_new_tokens": 3}
        rows = [{**row, "answers": ["Ada Lima" if i % 2 else "Oslo"]} for i, row in enumerate(ROWS)]
        trainer = make_trainer(
            tmp_path, train_dataset=Dataset.from_list(rows), reward_funcs=[exact_match_reward], **given
        )
        trainer.train()
    rewards = [log["reward"] for log in trainer.state.log_history if "reward" in log]
    assert sum(rewards) / len(rewards) == 0.5
    assert {body["max_tokens"] for _, body, _ in asked} == {32, 3}


def test_what_training_cannot_have_from_a_server_is_told(tmp_path):
    with pytest.raises(ValueError, match="train_generator=True do not go together, since the server goes on serving"):
        make_trainer(tmp_path, generator_url="http://localhost:8000/v1")
    with pytest.raises(ValueError, match="generator_model='x' is a model of a server; set generator_url"):
        make_trainer(tmp_path, generator_model="x", train_generator=False)
    with stand_in(lambda body, number: (200, with_text(" Ada Lima"))) as (url, _):
        trainer = make_trainer(tmp_path, train_generator=False, generator_url=url)
        with pytest.raises(ConnectionError, match="does not say how likely a prompt's tokens are"):
            trainer.train()


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    make_trainer(folder / "pair", model=save_start(folder / "start"), num_candidates=4).save_model()
    return folder / "pair"


@pytest.fixture(scope="module")
def served(pair):
    """The address of `transformers serve` with the pair's generator."""
    pytest.importorskip("fastapi", reason="transformers serve needs it")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    program = str(Path(sys.executable).parent / "transformers")
    options = ["--device", "cpu", "--dtype", "float32", "--host", "127.0.0.1", "--port", port]
    with subprocess.Popen(
        [program, "serve", str(pair / "generator"), *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        try:
            for _ in range(2000):  # It imports for half a minute on a busy machine.
                with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health"):
                    break
                assert process.poll() is None, process.stdout.read().decode()
                time.sleep(0.1)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.kill()


def test_transformers_serve_answers_as_the_generator_here(pair, served, tmp_path):
    shutil.copytree(pair, tmp_path / "pair")
    (tmp_path / "pair" / "generator" / "model.safetensors").unlink()  # Only its tokenizer is read.
    options = {"dtype": "float32", "generator_url": served, "generator_model": str(pair / "generator")}
    found = RAGPipeline.from_pretrained(tmp_path / "pair", **options).predict(ROWS, max_new_tokens=8)
    generator = tiny_model("llama", tiny_tokenizer())
    read = [output.passages for output in found]
    assert [o.answer for o in found] == generate_answers(
        generator, tiny_tokenizer(), QUESTIONS, read, max_new_tokens=8
    )
    assert any(output.answer for output in found)
    _, predictions = evaluate_pair(pair, ROWS, ("trained", "start"), max_new_tokens=8, **options)
    assert [p["answer"] for p in predictions["trained"]] == [output.answer for output in found]


def test_evaluate_asks_the_server_and_says_what_needs_the_generator_here(pair, tmp_path):
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    command = [
        "evaluate",
        "--model_name_or_path",
        pair,
        "--dataset_name",
        tmp_path / "rows.jsonl",
        "--output_dir",
        tmp_path / "out",
    ]
    command = [str(word) for word in [*command, "--no_start"]]
    with stand_in(lambda body, number: (200, with_text(" Ada Lima"))) as (url, asked):
        result = CliRunner().invoke(app, [*command, "--generator_url", url])
        assert result.exit_code == 0, result.stderr
        results = json.loads((tmp_path / "out" / "results.json").read_text())
        assert {p["answer"] for p in results["predictions"]["trained"]} == {"Ada Lima"}
        assert len(asked) >= 4
        result = CliRunner().invoke(app, [*command, "--systems", "oracle", "--generator_url", url])
    assert "systems=['oracle'] ask the generator how likely answers are" in result.stderr
    result = CliRunner().invoke(app, [*command, "--generator_model", "x"])
    assert "--generator_model x is a model of a server; give its --generator_url" in result.stderr
