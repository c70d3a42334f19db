"""What a study's recipe may say, what it may not, and the rows that come of it."""

import pytest

from dro_trl.recipes.studies.parsing import parse_study
from dro_trl.recipes.studies.plan import plan_rows
from tests.helpers.training import write_recipe

METHODS = {"dro": {}, "grpo": {"loss_type": "grpo", "policy_kwargs": {"retriever_prior": 0.5}}, "slow": None}


def write_study(folder, **lines):
    """Write a tiny recipe as a study of three methods and two seeds."""
    given = {"methods": METHODS, "seeds": [3, 1], "eval_dataset_name": "eval.jsonl", "max_new_tokens": 3, **lines}
    return write_recipe(folder, **given)


def test_methods_and_seeds_become_rows(tmp_path):
    path = write_study(tmp_path, learning_rate=0.01)
    study = parse_study(["--config", path, "--num_candidates=7", "--max_eval_samples", "5", "--answerable-only"])
    assert (study.seeds, study.max_eval_samples, study.max_new_tokens) == ((3, 1), 5, 3)
    assert list(study.methods) == ["dro", "grpo", "slow"]
    rows = plan_rows(study)
    assert [(row.method, row.seed) for row in rows] == [(m, s) for s in (3, 1) for m in METHODS]
    grpo = rows[4]
    assert grpo.folder == tmp_path / "out" / "rows" / "grpo-seed1"
    assert grpo.recipe["output_dir"] == str(grpo.folder / "model")
    expected = {"seed": 1, "learning_rate": 0.01, "loss_type": "grpo", "num_candidates": 7, "answerable_only": True}
    assert expected.items() <= grpo.recipe.items()
    assert "methods" not in grpo.recipe
    assert "eval_dataset_name" not in grpo.recipe
    assert "loss_type" not in rows[0].recipe


def test_every_baseline_may_stand_beside_dro_in_one_study(tmp_path):
    """One K and one M for all: what is trained passage by passage selects K afterwards."""
    of_one = {"policy_kwargs": {"proposal": "every_passage"}, "entropy_coef": 0}
    drawn = {name: {"loss_type": name} for name in ("dro", "grpo", "rloo", "reinforce", "ppo")}
    singles = {"RAG-Sequence": of_one, **{name: {"loss_type": name, **of_one} for name in ("replug", "emdr2")}}
    methods = {**drawn, **singles, "supervised": {"loss_type": "supervised", "entropy_coef": 0}}
    study = parse_study(["--config", write_study(tmp_path, methods=methods, num_selections=6, entropy_coef=0.02)])
    assert study.methods.keys() == methods.keys()
    path = write_study(tmp_path, methods={"replug": {"loss_type": "replug"}}, entropy_coef=0.02)
    with pytest.raises(ValueError, match="method 'replug': loss_type='replug' and entropy_coef=0.02 do not go"):
        parse_study(["--config", path])


def test_the_command_line_overrides_methods_and_seeds(tmp_path):
    study = parse_study(["--config", write_study(tmp_path), "--seeds", "[5]", "--methods", "{a: {kl_coef: 0.1}}"])
    assert (study.seeds, study.methods) == ((5,), {"a": {"kl_coef": 0.1}})


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ({"max_new_token": 3}, "recipe.yaml: unknown key 'max_new_token'; did you mean 'max_new_tokens'"),
        ({"methods": {"a": {"los_type": "grpo"}}}, "method 'a': unknown key 'los_type'; did you mean 'loss_type'"),
        ({"methods": {"a": {"output_dir": "x"}}}, "method 'a': unknown key 'output_dir'"),
        ({"methods": ["dro", "grpo"]}, r"methods=\['dro', 'grpo'\] must be `name: value` lines"),
        (
            {"methods": {"a": {}, "b": {"loss_type": "gpro"}}},
            "method 'b': loss_type='gpro' must be one of 'dro', 'grpo', ",
        ),
        ({"methods": {"a b": {}, "A-b": {}}}, "methods 'A-b' and 'a b' would share the folder 'a-b'"),
        ({"methods": {"start": {}}}, "'start' is the name of a baseline"),
        ({"methods": {"x, retriever order": {}}}, "is the name of a baseline"),
        ({"methods": {"?": {}}}, "no letter or digit"),
        ({"methods": None}, "methods is not set"),
        ({"eval_dataset_name": None}, "eval_dataset_name is not set"),
        ({"seeds": [1, 1]}, "seeds must be a list of different whole numbers"),
        ({"seeds": "x"}, "seeds='x' must be a list, each a whole number of at least 0"),
        ({"seeds": [-1]}, r"seeds=\[-1\] must be a list, each a whole number of at least 0"),
        ({"seed": 3}, "seed is not for a study; list the seeds in `seeds`"),
        ({"methods": {"a": {"resume": True}}}, "resume is not for a study"),
        ({"max_new_tokens": 0}, "max_new_tokens=0 must be a whole number of at least 1"),
        ({"equal_samples": "no!"}, "equal_samples='no!' must be true or false"),
        ({"num_selections": 1}, "^method 'dro': num_selections=1 gives the selector no signal"),
        ({"methods": {"a": {}, "b": {"num_selected": 3}}}, "num_selected=3 differs from 2 of 'a', and recall@K"),
        (
            {"methods": {"a": {}, "b": {"num_selections": 5}}},
            "method 'b': num_selections=5 differs from 3 of 'a', .* equal_samples: false",
        ),
        ({"methods": {"a": {}, "b": {"num_iterations": 2}}}, "num_iterations=2 differs from 1 of 'a'"),
        ({"methods": {"a": {}, "b": {"max_steps": 1}}}, "max_steps=1 differs from -1 of 'a'"),
    ],
)
def test_what_a_study_may_not_say(tmp_path, lines, message):
    with pytest.raises(ValueError, match=message):
        parse_study(["--config", write_study(tmp_path, **lines)])


def test_an_ablation_declares_that_samples_differ(tmp_path):
    methods = {"a": {}, "b": {"num_selections": 5}, "c": {"num_iterations": 2}}
    study = parse_study(["--config", write_study(tmp_path, methods=methods, equal_samples=False)])
    assert study.methods == methods
    path = write_study(tmp_path, equal_samples=False)
    with pytest.raises(ValueError, match="num_selected=3 differs"):
        parse_study(["--config", path, "--methods", "{a: {}, b: {num_selected: 3}}"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--config names no file"),
        (["--config"], "--config names no file"),
        (["study.yaml"], "'study.yaml' belongs to no option"),
        (["--config", "RECIPE", "--sed", "3"], "the command line: unknown key 'sed'"),
        (
            ["--config", "RECIPE", "--seeds", "[1"],
            "the command line: seeds='\\[1' must be a list, .* \\(not valid YAML",
        ),
    ],
)
def test_what_the_command_line_may_not_say(tmp_path, arguments, message):
    path = write_study(tmp_path)
    with pytest.raises(ValueError, match=message):
        parse_study([path if argument == "RECIPE" else argument for argument in arguments])
