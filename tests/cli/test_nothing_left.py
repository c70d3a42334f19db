"""A command whose input is wrong ends in one line, and leaves no file or folder behind."""

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel
from typer.testing import CliRunner

from dro_trl.cli.app import app
from tests.helpers.tiny_models import tiny_questions, tiny_tokenizer
from tests.helpers.training import save_start, write_recipe

PAIR = "evaluate --model_name_or_path in/pair"
ON_ROWS = "--dataset_name in/train.jsonl"

WRONG = {
    "evaluate: no pair": f"evaluate --model_name_or_path nowhere {ON_ROWS}",
    "evaluate: no pair, a folder": f"evaluate --model_name_or_path nowhere {ON_ROWS} --output_dir out/here",
    "evaluate: no dataset": f"{PAIR} --dataset_name nowhere.jsonl --output_dir out/here",
    "evaluate: a torn pair": f"evaluate --model_name_or_path in/torn {ON_ROWS} --output_dir out/here",
    "evaluate: a damaged pair": f"evaluate --model_name_or_path in/damaged {ON_ROWS} --no_start --output_dir out",
    "evaluate: no start": f"evaluate --model_name_or_path in/startless {ON_ROWS} --output_dir out/here",
    "evaluate: no such metric": f"{PAIR} {ON_ROWS} --metrics bleu --output_dir out",
    "evaluate: no such system": f"{PAIR} {ON_ROWS} --systems orcale --output_dir out",
    "evaluate: windows": f"{PAIR} {ON_ROWS} --window_size 2 --output_dir out",
    "evaluate: no pair on a hub": f"evaluate --model_name_or_path no/model {ON_ROWS} --output_dir out/here",
    "evaluate: too long": f"{PAIR}-short {ON_ROWS} --no_start --output_dir out/here",
    "ask: no pair on a hub": "ask Who? --model_name_or_path no/model --index_dir in/index",
    "ask: no pair": "ask Who? --model_name_or_path nowhere --index_dir in/index",
    "ask: no index": "ask Who? --model_name_or_path in/pair --index_dir nowhere",
    "merge: no pair": "merge --model_name_or_path nowhere --output_dir out/here",
    "merge: no adapters": "merge --model in/pair --output_dir out/here",
    "merge: a damaged pair": "merge --model in/damaged --output_dir out/here",
    "train: no model": "train --config in/recipe.yaml --model_name_or_path ./nowhere --output_dir out/here",
    "train: no generator": "train --config in/recipe.yaml --generator_name_or_path ./nowhere --output_dir out/here",
    "train: no dataset": "train --config in/recipe.yaml --dataset_name nowhere.jsonl --output_dir out/here",
    "train: no eval dataset": "train --config in/recipe.yaml --eval_dataset_name nowhere.jsonl --output_dir out/here",
    "train: no reward": "train --config in/recipe.yaml --reward_funcs dro_trl.nothing --output_dir out/here",
    "train: no policy": "train --config in/recipe.yaml --policy dro_trl.Nothing --output_dir out/here",
    "train: too long": "train --config in/recipe.yaml --model_name_or_path in/short --output_dir out/here",
    "train: too long to evaluate": "train --config in/recipe.yaml --model_name_or_path in/short --output_dir out/here "
    "--dataset_name in/brief.jsonl --eval_dataset_name in/train.jsonl",
    "train: no model on a hub": "train --config in/recipe.yaml --model_name_or_path no/model --output_dir out/here",
    "train: no generator on a hub": "train --config in/recipe.yaml --generator_name_or_path no/model --output_dir out",
    "train: few candidates": "train --config in/recipe.yaml --num_selected 5 --output_dir out/here",
    "warmup: no model": "warmup selector --config in/warm.yaml --model_name_or_path ./nowhere --output_dir out/here",
    "warmup: no model on a hub": "warmup selector --config in/warm.yaml --model_name_or_path no/model --output_dir o",
    "warmup: no dataset": "warmup generator --config in/warm.yaml --dataset_name nowhere.jsonl --output_dir out/here",
    "warmup: no run file": "warmup selector --config in/warm.yaml --teacher run --teacher_run no --output_dir out",
    "warmup: no gold": "warmup selector --config in/warm.yaml --dataset_name in/nogold.jsonl --output_dir out/here",
    "compare: no dataset": "compare --config in/study.yaml --dataset_name nowhere.jsonl --output_dir out/here",
    "compare: no eval dataset": "compare --config in/study.yaml --eval_dataset_name nowhere.jsonl --output_dir out",
    "compare: no model": "compare --config in/study.yaml --model_name_or_path ./nowhere --output_dir out/here",
    "compare: no model on a hub": "compare --config in/study.yaml --model_name_or_path no/model --output_dir out/here",
    "compare: nothing to report": "compare --config in/study.yaml --report_only --output_dir out/here",
    "run: no corpus": "run in/run.yaml --output_dir out/here",
    "run: no such stage": "run in/run.yaml --until trian --output_dir out/here",
    "estimate: no model": "estimate --config in/recipe.yaml --model_name_or_path ./nowhere --output_dir out/here",
    "estimate: no backend": "estimate --config in/recipe.yaml --backend ZeRO-9 --output out/here/estimate.json",
    "index: no corpus": "index --corpus nowhere.jsonl --index_dir out/here",
    "index: no passages": "index --corpus in/empty.jsonl --index_dir out/here",
    "index: wrong rows": "index --corpus in/wrong.jsonl --index_dir out/here",
    "retrieve: no questions": "retrieve --index_dir in/index --input nowhere.jsonl --output out/here/a.jsonl",
    "retrieve: wrong rows": "retrieve --index_dir in/index --input in/wrong.jsonl --output out/here/a.jsonl",
    "retrieve: no index": "retrieve --index_dir nowhere --input in/plain.jsonl --output out/a.jsonl --run out/b/run",
    "retrieve: no run": "retrieve --corpus in/c.jsonl --from_run no --input in/plain.jsonl --output out/here/a.jsonl",
    "prepare: no file": "prepare --dataset musique --input nowhere.jsonl --output out/here/a.jsonl",
    "prepare: wrong rows": "prepare --dataset musique --input in/wrong.jsonl --output out/here/a.jsonl",
    "prepare: no corpus": "prepare --dataset beir --input in/beir/qrels/test.tsv --corpus no --output out/a.jsonl",
    "mix: no file": "mix --input nowhere.jsonl --input in/train.jsonl --output out/here/a.jsonl",
    "mix: wrong rows": "mix --input in/list.jsonl --output out/here/a.jsonl",
    "gemma: a folder of something else": "gemma --output_dir in",
}


@pytest.fixture(scope="module")
def inputs(trained_pair, tmp_path_factory):
    """A folder `in` with inputs, some of them wrong."""
    folder = tmp_path_factory.mktemp("inputs") / "in"
    folder.mkdir()
    save_start(folder / "start")
    config = GPT2Config(vocab_size=len(tiny_tokenizer()), n_positions=32, n_embd=16, n_layer=1, n_head=2)
    GPT2LMHeadModel(config).save_pretrained(folder / "short")
    tiny_tokenizer().save_pretrained(folder / "short")
    shutil.copytree(trained_pair, folder / "pair")
    shutil.copytree(trained_pair, folder / "damaged")
    weights = folder / "damaged" / "selector" / "model.safetensors"
    tensors = load_file(weights)
    del tensors["model.norm.weight"]
    save_file(tensors, weights, {"format": "pt"})
    for part in ("selector", "generator"):
        shutil.copytree(folder / "short", folder / "pair-short" / part)
    shutil.copy(trained_pair / "dro_config.json", folder / "pair-short")
    shutil.copytree(trained_pair, folder / "torn")
    (folder / "torn" / "generator" / "model.safetensors").unlink()
    shutil.copytree(trained_pair, folder / "startless")
    own = folder / "startless" / "dro_config.json"
    own.write_text(json.dumps({**json.loads(own.read_text()), "start": {"selector": "./no", "generator": "./no"}}))
    recipe = yaml.safe_load(Path(write_recipe(folder)).read_text())
    recipe = {
        name: value.replace(f"{folder}", "in") if isinstance(value, str) else value for name, value in recipe.items()
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (folder / "warm.yaml").write_text(yaml.safe_dump({k: v for k, v in recipe.items() if k != "num_selections"}))
    of_study = {"methods": {"one": {}}, "eval_dataset_name": "in/train.jsonl"}
    (folder / "study.yaml").write_text(yaml.safe_dump(recipe | of_study))
    (folder / "run.yaml").write_text(yaml.safe_dump({"index": {"corpus": "nowhere.jsonl"}}))
    passages = [{"id": str(i), "title": "", "text": "Oslo", "score": 1.0} for i in range(4)]
    brief = {"question": "O?", "answers": ["a"], "candidates": passages}
    (folder / "brief.jsonl").write_text(json.dumps(brief) + "\n")
    rows = tiny_questions(4, 5)
    (folder / "nogold.jsonl").write_text("".join(json.dumps({**row, "gold_ids": None}) + "\n" for row in rows))
    (folder / "plain.jsonl").write_text(json.dumps({"question": "Who?"}) + "\n")
    (folder / "wrong.jsonl").write_text('{"question": ""}\n')
    (folder / "list.jsonl").write_text("[]\n")
    (folder / "empty.jsonl").write_text("")
    (folder / "c.jsonl").write_text('{"id": "1", "title": "", "text": "Oslo"}\n')
    (folder / "beir" / "qrels").mkdir(parents=True)
    (folder / "beir" / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n1\t1\t1\n")
    (folder / "beir" / "queries.jsonl").write_text('{"_id": "1", "text": "Who?"}\n')
    return folder


def listing(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


TOO_LONG = r"row 1: the \w+'s prompt has \d+ tokens, and max_position_embeddings of gpt2 is 32; "
NOWHERE = r" no/model is no folder here, and nothing of that name could be had from http\S+ or found in its cache /\S+"
SAID = {
    "train: too long": rf"train_dataset \(in/train\.jsonl\), {TOO_LONG}",
    "train: too long to evaluate": rf"eval_dataset \(in/train\.jsonl\), {TOO_LONG}",
    "train: few candidates": r"train_dataset \(in/train\.jsonl\), row 1: field 'candidates': found 4 passages",
    "train: no model on a hub": f"in/.*: model_name_or_path{NOWHERE}",
    "train: no generator on a hub": f"in/.*: generator_name_or_path{NOWHERE}",
    "warmup: no model on a hub": f"in/.*: model_name_or_path{NOWHERE}",
    "compare: no model on a hub": f"in/.*: model_name_or_path{NOWHERE}",
    "train: no model": r"in/.*: model_name_or_path \./nowhere: no such folder",
    "evaluate: too long": rf"questions \(in/train\.jsonl\), {TOO_LONG}",
    "evaluate: no pair on a hub": f"--model_name_or_path{NOWHERE}",
    "ask: no pair on a hub": f"--model_name_or_path{NOWHERE}",
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_input_leaves_nothing_behind(inputs, tmp_path, monkeypatch, case):
    (tmp_path / "in").symlink_to(inputs)
    monkeypatch.chdir(tmp_path)
    before = listing(inputs)
    result = CliRunner().invoke(app, WRONG[case].split())
    assert (result.exit_code, type(result.exception)) == (2, SystemExit), result.output
    assert result.stderr.strip().splitlines()[-1].startswith("error: ") or len(result.stderr.splitlines()) < 5
    assert [path.name for path in tmp_path.iterdir()] == ["in"], (listing(tmp_path), result.stderr)
    assert listing(inputs) == before
    assert re.search(f"^error: {SAID.get(case, '')}", result.stderr, re.MULTILINE), result.stderr
