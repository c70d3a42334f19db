"""What a run's recipe may say, and the stages that come of it."""

import pytest
import typer
import yaml

from dro_trl.cli.app import app
from dro_trl.files.writing import write_jsonl
from dro_trl.recipes.runs.plan import plan_run

COMMANDS = typer.main.get_command(app).commands
TRAIN = {"num_selected": 2, "learning_rate": 0.01}


@pytest.fixture
def plan(tmp_path, monkeypatch):
    """A function that plans a recipe, in a working directory with a few inputs."""
    monkeypatch.chdir(tmp_path)
    for name in ("corpus", "a", "b", "dev"):
        write_jsonl(tmp_path / f"{name}.jsonl", [{}])

    def make(lines):
        (tmp_path / "run.yaml").write_text(yaml.safe_dump({"output_dir": "out", **lines}))
        return {stage.name: stage for stage in plan_run(tmp_path / "run.yaml", COMMANDS)}

    return make


FULL = {
    "model_name_or_path": "org/base",
    "prepare": {
        "train": [{"format": "hotpotqa", "input": "a.jsonl"}, {"format": "2wikimultihopqa", "input": "b.jsonl"}],
        "dev": {"format": "hotpotqa", "input": "dev.jsonl", "max_samples": 3},
        "on_bad_row": "skip",
        "shuffle_seed": 3,
    },
    "index": {"corpus": "corpus.jsonl"},
    "retrieve": {"num_candidates": 5, "train": {"add_gold": True}},
    "train": TRAIN,
    "evaluate": {"cutoffs": [1, 2], "start": False},
}


def test_what_one_stage_makes_is_the_input_of_the_next(plan):
    stages = plan(FULL)
    assert [stage.shown(command) for stage in stages.values() for command in stage.commands] == [
        "dro-trl prepare --corpus corpus.jsonl --on_bad_row skip --format hotpotqa --input a.jsonl "
        "--output out/1-prepare/train-1.jsonl",
        "dro-trl prepare --corpus corpus.jsonl --on_bad_row skip --format 2wikimultihopqa --input b.jsonl "
        "--output out/1-prepare/train-2.jsonl",
        "dro-trl mix --seed 3 --input out/1-prepare/train-1.jsonl --input out/1-prepare/train-2.jsonl "
        "--output out/1-prepare/train.jsonl",
        "dro-trl prepare --corpus corpus.jsonl --on_bad_row skip --format hotpotqa --input dev.jsonl --max_samples 3 "
        "--output out/1-prepare/dev.jsonl",
        "dro-trl index --corpus corpus.jsonl --index_dir out/2-index/index --overwrite",
        "dro-trl retrieve --input out/1-prepare/train.jsonl --index_dir out/2-index/index --num_candidates 5 "
        "--add_gold --output out/3-retrieve/train.jsonl",
        "dro-trl retrieve --input out/1-prepare/dev.jsonl --index_dir out/2-index/index --num_candidates 5 "
        "--output out/3-retrieve/dev.jsonl",
        "dro-trl train --config out/5-train/recipe.yaml",
        "dro-trl evaluate --model_name_or_path out/5-train/model --dataset_name out/3-retrieve/dev.jsonl "
        "--cutoffs 1 --cutoffs 2 --no_start --output_dir out/6-evaluate",
    ]
    assert stages["train"].recipe == {
        "model_name_or_path": "org/base",
        "dataset_name": "out/3-retrieve/train.jsonl",
        **TRAIN,
        "output_dir": "out/5-train/model",
        "resume": True,
    }


def test_the_pair_starts_from_what_was_warmed_up(plan):
    warmup = {"generator": {"max_steps": 3}, "selector": {"teacher": "gold", "launch": {"cpu": True}}}
    stages = plan({**FULL, "warmup": warmup})
    generator, selector = stages["warmup.generator"], stages["warmup.selector"]
    shown = [generator.shown(generator.commands[0]), selector.shown(selector.commands[0])]
    assert shown == [
        "dro-trl warmup generator --config out/4-warmup-generator/recipe.yaml",
        "accelerate launch --cpu -m dro_trl warmup selector --config out/4-warmup-selector/recipe.yaml",
    ]
    assert selector.recipe == {
        "model_name_or_path": "org/base",
        "dataset_name": "out/3-retrieve/train.jsonl",
        "teacher": "gold",
        "output_dir": "out/4-warmup-selector/model",
        "resume": True,
    }
    assert plan({**FULL, "warmup": {**warmup, "selector": {"teacher": "likelihood"}}})["warmup.selector"].recipe[
        "generator_name_or_path"
    ] == ("out/4-warmup-generator/model")
    recipe = stages["train"].recipe
    assert recipe["model_name_or_path"] == "out/4-warmup-selector/model"
    assert recipe["generator_name_or_path"] == "out/4-warmup-generator/model"


@pytest.mark.parametrize(
    ("part", "train", "expected"),
    [
        ("selector", {}, ("out/4-warmup-selector/model", "org/base")),
        ("generator", {}, ("org/base", "out/4-warmup-generator/model")),
        ("selector", {"shared_base": True}, ("out/4-warmup-selector/model", None)),
        ("selector", {"generator_name_or_path": "org/other"}, ("out/4-warmup-selector/model", "org/other")),
    ],
)
def test_the_one_that_was_not_warmed_up_starts_from_the_base(plan, part, train, expected):
    lines = {**FULL, "warmup": {part: {"model_name_or_path": "org/base"}}, "train": {**TRAIN, **train}}
    recipe = plan(lines)["train"].recipe
    assert (recipe["model_name_or_path"], recipe.get("generator_name_or_path")) == expected


def test_sections_may_be_left_out_where_their_product_is_given(plan, tmp_path):
    (tmp_path / "index").mkdir()
    stages = plan({"retrieve": {"index_dir": "index", "train": {"input": "a.jsonl"}, "dev": {"input": "dev.jsonl"}}})
    assert stages["retrieve"].sources == {
        "retrieve.train.input": "a.jsonl",
        "retrieve.train.index_dir": "index",
        "retrieve.dev.input": "dev.jsonl",
        "retrieve.dev.index_dir": "index",
    }
    stages = plan({"train": {**TRAIN, "model_name_or_path": "org/base", "dataset_name": "a.jsonl"}})
    assert stages["train"].sources == {"train.model_name_or_path": "org/base", "train.dataset_name": "a.jsonl"}
    (tmp_path / "pair").mkdir()
    assert list(plan({"evaluate": {"model_name_or_path": "pair", "dataset_name": "dev.jsonl"}})) == ["evaluate"]


def test_a_recipe_file_is_overridden_by_products_and_those_by_the_section(plan, tmp_path):
    base = {"model_name_or_path": "org/of-file", "dataset_name": "x", "output_dir": "y", "learning_rate": 1, "seed": 7}
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(base))
    recipe = plan({**FULL, "train": {"recipe": "base.yaml", "learning_rate": 0.5, "eval_strategy": "epoch"}})
    assert recipe["train"].recipe == {
        "model_name_or_path": "org/of-file",
        "dataset_name": "out/3-retrieve/train.jsonl",
        "output_dir": "out/5-train/model",
        "learning_rate": 0.5,
        "seed": 7,
        "eval_strategy": "epoch",
        "eval_dataset_name": "out/3-retrieve/dev.jsonl",
        "resume": True,
    }


def test_modules_beside_the_recipe_are_found_and_are_inputs(plan, tmp_path):
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "mine.py").write_text("")
    (tmp_path / "more" / "base.yaml").write_text("reward_funcs: [mine.reward, dro_trl.token_f1_reward]\n")
    stages = plan({**FULL, "train": {**TRAIN, "recipe": "more/base.yaml"}})
    assert stages["train"].sources["train.reward_funcs.mine"] == "more/mine.py"
    command = stages["train"].commands[0]
    assert stages["train"].shown(command) == "PYTHONPATH=more dro-trl train --config out/5-train/recipe.yaml"
    assert stages["evaluate"].python_path == ["more"]
    assert "--trust_remote_code" not in stages["evaluate"].commands[0]
    train = {**TRAIN, "recipe": "more/base.yaml", "policy": "mine.Policy"}
    for evaluate, trusted in (
        ({}, True),
        ({"trust_remote_code": False}, False),
        ({"model_name_or_path": "more"}, False),
    ):
        words = plan({**FULL, "train": train, "evaluate": evaluate})["evaluate"].commands[0]
        assert ("--trust_remote_code" in words) == trusted
    with pytest.raises(ValueError, match="train: policy: no module 'mine_too' beside the recipe, in the working"):
        plan({**FULL, "train": {"policy": "mine_too.Policy"}})


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ({"evalaute": {}}, "run.yaml: unknown key 'evalaute'; did you mean 'evaluate'?"),
        ({"output_dir": None}, "output_dir is not set; add it, or pass --output_dir"),
        ({}, "has no section; the sections are prepare, index"),
        ({"index": "corpus.jsonl"}, "run.yaml: index must hold `name: value` lines, found 'corpus.jsonl'"),
        ({"index": {"corpus": "corpus.jsonl", "thread": 1}}, "index: unknown key 'thread'; did you mean 'threads'?"),
        ({"index": {"corpus": "corpus.jsonl", "overwrite": True}}, "index: overwrite is set by the run; take it out"),
        ({"index": {"corpus": "corpus.jsonl", "threads": 0}}, "index: Invalid value for '--threads': "),
        ({"index": {"corpus": ["a", "b"]}}, "index: corpus must be one value, found ['a', 'b']"),
        ({"index": {}}, "index: Missing option '--corpus'"),
        ({"index": {"corpus": "none.jsonl"}}, "index.corpus: no such file or folder: none.jsonl"),
        ({"prepare": {}}, "prepare has neither `train` nor `dev`"),
        ({"prepare": {"train": None}}, "prepare.train must hold `name: value` lines, found None"),
        (
            {"prepare": {"train": [FULL["prepare"]["dev"], {"format": "hotpot", "input": "a.jsonl"}]}},
            "prepare.train[2]: Invalid value for '--format': ",
        ),
        (
            {"prepare": {"dev": {"format": "hotpotqa", "input": "dev.json"}}},
            "prepare.dev.input: no such file or folder: dev.json",
        ),
        ({"retrieve": {"train": {"input": "a.jsonl"}}}, "retrieve has no index; add a section `index`"),
        (
            {"index": FULL["index"], "retrieve": {"num_candidates": 2}},
            "retrieve has no questions; add a section `prepare`",
        ),
        ({**FULL, "retrieve": {"add_gold": True}}, "retrieve.dev: add_gold would put the gold passages among"),
        ({"warmup": {"selecter": {}}}, "warmup: unknown key 'selecter'; did you mean 'selector'?"),
        ({**FULL, "train": {"output_dir": "x"}}, "train: output_dir is set by the run, which resumes"),
        ({"train": TRAIN}, "train: model_name_or_path is not set, and no stage before makes it"),
        ({**FULL, "evaluate": {"start": "no thanks"}}, "evaluate: start='no thanks' must be true or false"),
        ({**FULL, "evaluate": {"max_eval_samples": True}}, "evaluate: max_eval_samples must be one value, found True"),
        ({"evaluate": {"dataset_name": "dev.jsonl"}}, "evaluate: Missing option '--model_name_or_path'"),
    ],
)
def test_what_a_recipe_may_not_say(plan, lines, message):
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        plan(lines)
    assert message in str(error.value)
