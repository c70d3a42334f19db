"""Paths that are wrong: one line that names option, path and what to do, before torch is, by every command."""

import json
import os
import subprocess
import sys
import typing
from inspect import unwrap
from pathlib import Path

import pytest
import typer

from dro_trl.cli.app import app
from dro_trl.recipes.options import TRAIN, WARMUP
from dro_trl.recipes.paths import LINES, OPTIONS, check_lines, check_options

COMMANDS = typer.main.get_command(app).commands
PROGRAM = """
import json, sys
from typer.testing import CliRunner
from dro_trl.cli.app import app
found = {}
for words in json.load(sys.stdin):
    done = CliRunner().invoke(app, words.split())
    found[words] = done.exit_code, done.stderr, "torch" in sys.modules
print(json.dumps(found))
"""
PAIR = "--model_name_or_path"
GIVE_PAIR = "give the output_dir of a DROTrainer run, or a name on a hub such as user/pair"
GIVE_MODEL = "give the folder of a model, or its name on a hub such as org/model"
ONE_THERE = "give the path of one that is there"
NO_MODEL = f"holds no model (no file config.json or adapter_config.json or dro_config.json); {GIVE_MODEL}"
RECIPE, STUDY = "--config recipe.yaml", "--config study.yaml"
ASK, RERANK = f"ask Who? {PAIR} pair --index_dir index", f"rerank {PAIR} pair --run a --input a --output b --index_dir"
CASES = {
    f"train {RECIPE} {PAIR} ./nopair": f"{PAIR[2:]} ./nopair: no such folder (did you mean pair?); {GIVE_MODEL}",
    f"train {RECIPE} {PAIR} runs/x/y": f"{PAIR[2:]} runs/x/y: no such folder; {GIVE_MODEL}",
    f"train {RECIPE} {PAIR} paer": f"{PAIR[2:]} paer is no folder here (did you mean pair?), and nothing of that name",
    f"train {RECIPE} {PAIR} a": f"{PAIR[2:]} a: is a file; {GIVE_MODEL}",
    f"train {RECIPE} --generator_name_or_path index": f"generator_name_or_path index: {NO_MODEL}",
    f"train {RECIPE} --dataset_name rosw.jsonl": f"dataset_name rosw.jsonl: no such file (did you mean rows.jsonl?); "
    f"{ONE_THERE}",
    f"train {RECIPE} --dataset_name x/rows": "dataset_name x/rows: no such file or folder, and no such",
    f"train {RECIPE} --eval_dataset_name index": "eval_dataset_name index: is no folder that `save_to_disk` wrote;",
    f"train {RECIPE} --eval_dataset_name a": "eval_dataset_name a: files of this kind are not read; give one",
    f"train {RECIPE} --output_dir a": "output_dir a: is a file; give the path of a folder",
    f"train {RECIPE} --resume_from_checkpoint no": "resume_from_checkpoint no: no such folder; give the path of one",
    "train --config index": "index is a folder; name a recipe in it",
    "warmup selector --config warm.yaml --teacher_run no.run": f"teacher_run no.run: no such file; {ONE_THERE}",
    f"warmup selector --config warm.yaml {PAIR} /no/pair": f"{PAIR[2:]} /no/pair: no such folder; {GIVE_MODEL}",
    f"estimate {RECIPE} --dataset_name empty.jsonl": "dataset_name empty.jsonl: the file is empty; give one",
    f"estimate {RECIPE} --accelerate_config zero9": "zero9: No such file or directory, and no recipe of that name",
    f"estimate {RECIPE} --model_config none/config.json": "none/config.json: no such file; give --model_config",
    f"compare {STUDY} --eval_dataset_name no.csv": f"study.yaml: eval_dataset_name no.csv: no such file; {ONE_THERE}",
    "compare --config other.yaml": "other.yaml, method 'b': generator_name_or_path ./no: no such folder; give",
    f"evaluate {PAIR} nopair --dataset_name rows.jsonl": f"{PAIR} nopair: no such folder (did you mean pair?); give",
    f"evaluate {PAIR} pair --dataset_name no.parquet": f"--dataset_name no.parquet: no such file; {ONE_THERE}",
    f"{ASK} --input nothing.jsonl": "--input nothing.jsonl: no such file",
    f"serve {PAIR} index": f"{PAIR} index: index/dro_config.json does not exist; {GIVE_PAIR}",
    f"demo {PAIR} user/pair --index_dir index": f"{PAIR} user/pair is no folder here, and nothing",
    f"{RERANK} no": "--index_dir no: no such folder; build one with `dro-trl index --corpus",
    f"merge {PAIR} pair --output_dir a/b": "--output_dir a/b: {folder}/a is a file; give a path that is in a folder",
    f"merge {PAIR} pair --output_dir ./x/../pair": "is the pair itself; give another folder",
    "index --corpus no.tsv --index_dir new": f"--corpus no.tsv: no such file; {ONE_THERE}",
    "index --corpus rows.jsonl --index_dir a": "--index_dir a: is a file; give the path of a folder",
    "retrieve --input index --output b --index_dir index": "--input index: is a folder; name a file in it, such as",
    "retrieve --input a --output b --from_run empty.jsonl --corpus a": "--from_run empty.jsonl: the file is empty;",
    "retrieve --input a --output index --index_dir index": "--output index: is a folder; give the path of a file",
    "prepare --format hotpotqa --input index --output b": "--input index: is a folder; name a file in it, such as",
    "mix --input rows.jsonl nothing.jsonl --output b": "--input nothing.jsonl: no such file",
    "run --config index": "index is a folder; name a recipe in it",
    "run --config studies/no": "studies/no: No such file or directory, and no recipe of that name",
    "quickstart --output_dir a": "--output_dir a: is a file; give the path of a folder",
    "gemma --output_dir a/b": "--output_dir a/b: {folder}/a is a file; give a path that is in a folder",
    "recipes no": "no: No such file or directory, and no recipe of that name",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("paths")
    for name in ("pair/dro_config.json", "start/config.json", "index/segments_1", "a", "rows.jsonl"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("{}\n")
    (folder / "empty.jsonl").touch()
    read = {"model_name_or_path": "start", "dataset_name": "rows.jsonl", "output_dir": "out"}
    study = {**read, "eval_dataset_name": "rows.jsonl"}
    recipes = {"recipe": read, "warm": {**read, "teacher": "run", "teacher_run": "a"}}
    recipes["study"] = {**study, "methods": {"a": {}}}
    recipes["other"] = {**study, "methods": {"a": {}, "b": {"generator_name_or_path": "./no"}}}
    for name, lines in recipes.items():
        (folder / f"{name}.yaml").write_text(json.dumps(lines))
    return folder


@pytest.fixture(scope="module")
def told(folder):
    """What each command line comes to, all in one process, so that libraries are imported once."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(
        command, input=json.dumps(list(CASES)), cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("words", CASES)
def test_a_wrong_path_is_told_in_one_line_before_torch_is_imported(words, folder, told):
    code, said, with_torch = told[words]
    assert CASES[words].format(folder=folder) in said
    assert said.startswith("error: ")
    assert len(said.splitlines()) == 1
    assert (code, with_torch) == (2, False)


def test_every_command_has_a_case():
    without = {"env"}
    assert {words.split()[0] for words in CASES} == COMMANDS.keys() - without


def test_every_option_that_is_a_path_is_looked_at():
    for name, command in COMMANDS.items():
        hints = typing.get_type_hints(unwrap(command.callback))
        for parameter in command.params:
            of = typing.get_args(hints.get(parameter.name)) or (hints.get(parameter.name),)
            if parameter.param_type_name == "option" and Path in of:
                assert parameter.opts[0].lstrip("-") in OPTIONS, f"{name} {parameter.opts[0]}"
    assert LINES.keys() <= TRAIN.options.keys() | WARMUP.options.keys()


def test_what_is_there_is_let_through(folder, monkeypatch):
    """Pipes and streams too, which are no files; lines that are not read, and GGUF files."""
    monkeypatch.chdir(folder)
    read, write = os.pipe()
    try:
        given = {
            "input": [Path(f"/dev/fd/{read}"), Path("a")],
            "output": Path("/dev/stdout"),
            "index_dir": Path("index"),
        }
        check_options("rerank", given, {})
        check_options("index", {"index_dir": Path("new/index"), "corpus": Path("index")}, {})
        check_options("prepare", {"input": "user/dataset"}, {"dataset": "hotpotqa"})
        check_options("prepare", {"input": "index"}, {"dataset": "beir"})
        check_options("estimate", {"model_config": "Qwen/Qwen2.5-7B-Instruct", "accelerate_config": "zero3"}, {})
        check_lines({"model_name_or_path": "start", "dataset_name": "rows.jsonl", "output_dir": "new/out"}, "recipe")
        check_lines({"model_name_or_path": "index", "model_init_kwargs": {"gguf_file": "x.gguf"}}, "recipe")
        check_lines({"dataset_name": "nothing.jsonl"}, "recipe", ["dataset_name"])
    finally:
        os.close(read)
        os.close(write)
