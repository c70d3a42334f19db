"""`dro-trl demo` as a process, and its page as a real browser shows it."""

import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

from dro_trl import PyseriniRetriever, RAGPipeline
from dro_trl.cli.app import app
from dro_trl.lm.prompts import passage_text
from tests.helpers.tiny_models import tiny_questions
from tests.helpers.training import make_trainer, save_start

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
ROWS = tiny_questions(4, 9, 6)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shown")
    options = {"num_candidates": 4, "learning_rate": 3e-2}
    trainer = make_trainer(folder / "pair", model=save_start(folder / "start"), **options)
    trainer.train()
    trainer.save_model()
    passages = [{name: p[name] for name in ("id", "title", "text")} for row in ROWS for p in row["candidates"]]
    PyseriniRetriever.build(passages, folder / "index", progress=False).close()
    return folder / "pair"


@pytest.fixture
def page(pair):
    """The address of a page that is shown, and its process."""
    pytest.importorskip("gradio", reason="the extra `demo` is not installed")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    options = [
        "--model_name_or_path",
        pair,
        "--index_dir",
        pair.parent / "index",
        "--port",
        port,
        "--dtype",
        "float32",
    ]
    command = [sys.executable, "-m", "dro_trl", "demo", *map(str, options)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            said = []
            for line in process.stderr:
                said.append(line)
                if found := re.match(r"Showing (http://127\.0\.0\.1:\d+)", line):
                    yield found[1], process
                    break
            else:
                pytest.fail(f"the page did not come: {''.join(said)[-3000:]}")
        finally:
            process.kill()


@pytest.fixture
def browser():
    """A headless Chromium."""
    if not (CHROMIUM and DRIVER):
        pytest.skip("no Chromium with its driver: apt-get install chromium chromium-driver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=DRIVER))
    driver.set_page_load_timeout(120)
    yield driver
    driver.quit()


def wait_for(find, seconds=60):
    """Return what is found once it is something."""
    end = time.monotonic() + seconds
    while not (found := find()):
        assert time.monotonic() < end, "nothing came"
        time.sleep(0.1)
    return found


@pytest.mark.browser
def test_the_page_shows_both_answers_and_the_orders_of_the_candidates(browser, page, pair):
    address, process = page
    question = ROWS[1]["question"]
    with PyseriniRetriever(pair.parent / "index") as retriever:
        trained = RAGPipeline.from_pretrained(pair, retriever, dtype="float32")
        [candidates] = retriever.retrieve([question], 4)
        after = trained(question)
        before = RAGPipeline.from_start(pair, dtype="float32").predict([{**ROWS[1], "candidates": candidates}])[0]
    browser.get(address)
    box = wait_for(lambda: browser.find_elements("css selector", "#question textarea, #question input"))[0]
    box.send_keys(question)
    browser.find_element("id", "ask").click()

    script = (
        "return [...document.querySelectorAll('#candidates tbody tr')].map(r => [...r.cells].map(c => c.innerText))"
    )
    found = wait_for(lambda: browser.execute_script(script))
    ranked = trained.ranker.rank(question, candidates)
    assert [row[0] for row in found] == [str(one["corpus_id"] + 1) for one in ranked]
    assert [row[2] for row in found] == ["[1]", "[2]", "3", "4"]
    assert sorted(row[1] for row in found) == ["3", "4", "[1]", "[2]"]
    assert [row[4] for row in found] == [passage_text(candidates[one["corpus_id"]]) for one in ranked]
    assert [row[3] for row in found] == [f"{one['score']:.2f}" for one in ranked]
    for name, output in (("before", before), ("after", after)):
        [shown] = browser.find_elements("css selector", f"#{name} textarea, #{name} input")
        assert shown.get_attribute("value") == output.answer
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    assert "Stopped" in process.stderr.read()


def test_an_index_is_needed(pair):
    pytest.importorskip("gradio", reason="the extra `demo` is not installed")
    result = CliRunner().invoke(app, ["demo", "--model_name_or_path", str(pair)])
    assert (result.exit_code, "give one of --index_dir and --prebuilt" in result.stderr) == (2, True)


def test_without_gradio_the_extra_is_named(pair, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    result = CliRunner().invoke(app, ["demo", "--model_name_or_path", str(pair)])
    assert (result.exit_code, "pip install 'dro-trl[demo]'" in result.stderr) == (2, True)
