"""A pair whose policy is not dro_trl's: nothing of it is imported before its user says so."""

import importlib
import json
import os
import sys

import pytest
from typer.testing import CliRunner

from dro_trl import RAGPipeline
from dro_trl.cli.app import app
from dro_trl.models.saving import merge_adapters, read_config
from dro_trl.policies.base import check_own
from dro_trl.recipes.arguments import parse_recipe
from dro_trl.recipes.file import names_code
from dro_trl.recipes.training import run_recipe
from tests.helpers.tiny_models import tiny_questions
from tests.helpers.training import save_start, write_recipe

CODE = """
from pathlib import Path
from dro_trl import PlackettLucePolicy

Path(__file__).with_name("imported").touch()

class Mine(PlackettLucePolicy):
    pass
"""
REFUSED = (
    r"pair/dro_config.json: policy 'a_policy_of_mine.Mine' is code that is not dro_trl's, which loading the pair "
    r"would import and run; if you trust it, give trust_remote_code=True \(--trust_remote_code\)"
)


@pytest.fixture
def pair(tmp_path, monkeypatch):
    """A pair trained with a policy that stands in the working directory, forgotten again by this process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "a_policy_of_mine.py").write_text(CODE)
    save_start(tmp_path / "start")
    lora = {"use_peft": True, "lora_target_modules": ["q_proj", "v_proj"], "lora_r": 2, "max_steps": 1}
    recipe = write_recipe(tmp_path, policy="a_policy_of_mine.Mine", output_dir="pair", save_strategy="steps", **lora)
    importlib.invalidate_caches()
    run_recipe(*parse_recipe(["--config", recipe, "--save_steps", "1"]))  # Its own recipe names the code.
    run_recipe(*parse_recipe(["--config", recipe, "--save_steps", "1", "--max_steps", "2", "--resume"]))
    forget(tmp_path)
    yield tmp_path / "pair"
    forget(tmp_path)


def forget(folder):
    sys.modules.pop("a_policy_of_mine", None)
    (folder / "imported").unlink(missing_ok=True)


def run(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def test_a_pair_imports_code_of_others_only_where_it_is_trusted(pair, tmp_path):
    assert read_config(pair)["policy"] == "a_policy_of_mine.Mine"
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in tiny_questions(4, 5)))
    evaluate = (
        "evaluate",
        "--model_name_or_path",
        pair,
        "--dataset_name",
        tmp_path / "rows.jsonl",
        "--max_new_tokens",
        2,
    )
    for load in (RAGPipeline.from_pretrained, RAGPipeline.from_start):
        with pytest.raises(ValueError, match=REFUSED):
            load(pair)
    refused = run(*evaluate)
    assert refused.exit_code == 2
    assert "a_policy_of_mine.Mine" in refused.output
    merge_adapters(pair, tmp_path / "merged")  # Copies the name, and imports nothing.
    # A second round reads the pair's models, and its own recipe's policy.
    second = write_recipe(tmp_path, model_name_or_path=str(pair), output_dir="second", max_steps=1)
    run_recipe(*parse_recipe(["--config", second]))
    assert not (tmp_path / "imported").exists()
    assert "a_policy_of_mine" not in sys.modules

    done = run(*evaluate, "--trust_remote_code")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "imported").exists()
    pipeline = RAGPipeline.from_pretrained(pair, trust_remote_code=True)
    assert type(pipeline.policy).__module__ == "a_policy_of_mine"
    own = RAGPipeline.from_pretrained(tmp_path / "second").policy  # Given as an object, no code is looked for.
    assert RAGPipeline.from_pretrained(pair, policy=own).policy is own


@pytest.mark.parametrize(
    "path", ["dro_trl.PlackettLucePolicy", "dro_trl.policies.autoregressive.AutoregressivePolicy"]
)
def test_our_own_policies_need_no_word(path, tmp_path):
    check_own(path, tmp_path)


@pytest.mark.parametrize(
    "path",
    [
        "dro_trl.DROTrainer",  # A class, and no policy.
        "dro_trl.policies.base.load_policy",  # A function.
        "dro_trl.policies.base.Path",  # Another's class, by a module of ours.
        "dro_trl.recipes.processes.start",
        "dro_trl_of_others.Policy",
        "os.system",
    ],
)
def test_what_is_no_policy_of_ours_is_refused(path, tmp_path):
    with pytest.raises(ValueError, match=r"dro_config.json: policy '.*' is code that is not dro_trl's"):
        check_own(path, tmp_path / "dro_config.json")


def test_what_is_not_there_is_told_by_its_own_error(pair):
    config = pair / "dro_config.json"
    config.write_text(config.read_text().replace("a_policy_of_mine.Mine", "dro_trl.NoSuchPolicy"))
    with pytest.raises(ValueError, match=r"dro_config.json cannot be loaded as a policy dro_trl.NoSuchPolicy"):
        RAGPipeline.from_pretrained(pair)


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        ({}, False),
        ({"policy": None}, False),
        ({"policy": "dro_trl.AutoregressivePolicy"}, False),
        ({"policy": "dro_trl_of_others.Policy"}, True),
        ({"policy": "mine.Policy"}, True),
        ({"trust_remote_code": True}, True),
    ],
)
def test_a_recipe_that_names_code_is_trusted_with_what_it_trains(recipe, expected):
    assert names_code(recipe) == expected


def test_a_recipe_says_whether_code_of_models_runs(tmp_path):
    save_start(tmp_path / "start")
    for given, expected in ((None, None), (True, True)):
        script, args, model = parse_recipe(["--config", write_recipe(tmp_path, trust_remote_code=given, max_steps=1)])
        run_recipe(script, args, model)
        assert args.model_init_kwargs.get("trust_remote_code") == expected
    assert os.listdir(tmp_path / "out")
