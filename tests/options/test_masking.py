"""Secrets: which names tell of one, what is hidden, and that a process is given what its recipe's file hides."""

import copy
import json
import pickle
from pathlib import Path

import pytest

from dro_trl import DROConfig
from dro_trl.options.masking import HIDDEN, guarded, is_secret, masked, masked_words
from dro_trl.recipes.arguments import parse_recipe
from dro_trl.recipes.file import read_recipe
from dro_trl.recipes.options import KINDS
from dro_trl.recipes.secrets import VARIABLE, revealed, write_recipe
from dro_trl.recipes.studies.parsing import OWN
from tests.helpers.training import write_recipe as write_training_recipe


@pytest.mark.parametrize(
    "name",
    "hub_token HF_TOKEN token hfToken use_auth_token access-token OPENAI_API_KEY api_key apiKey WANDB_API_KEY apikey "
    "AWS_SECRET_ACCESS_KEY AWS_ACCESS_KEY_ID dbPassword db.password private_key SSH_KEY client_secret "
    "secret secret_name passphrase credentials GITHUB_TOKEN signing_keys".split(),
)
def test_names_of_secrets(name):
    assert is_secret(name)
    assert masked({name: "s3cr3t"}) == {name: HIDDEN}


@pytest.mark.parametrize(
    "name",
    "max_new_tokens pad_token eos_token bos_token pad_token_id identifier_token sep_token num_tokens tokens tokenizer "
    "tokenizer_name token_type max_passage_tokens key sort_key column_key num_key_value_heads primary_key keyboard "
    "secretary passage monkey hub_model_id".split(),
)
def test_names_of_other_things(name):
    assert not is_secret(name)
    assert masked({name: "value"}) == {name: "value"}


def test_of_all_options_only_the_hubs_token_is_one():
    names = {name for kind in KINDS.values() for name in kind.options} | set(OWN)
    assert {name for name in names if is_secret(name)} == {"hub_token"}


def test_what_is_hidden_of_a_recipe():
    recipe = {
        "hub_token": "hf_x",
        "hub_private_repo": None,
        "model_init_kwargs": {"token": "hf_y", "dtype": "float32", "use_auth_token": True},
        "methods": [{"api_key": "z", "k": 5}],
        "dataset_name": "https://me:pw@host/rows.jsonl",
        "secret": {"of": ["all"]},
        "env": {
            "OMP_NUM_THREADS": 2,
            "CUDA_VISIBLE_DEVICES": "0,1",
            "NCCL_DEBUG": "INFO",
            "HF_HUB_OFFLINE": "1",
            "SOME_SWITCH": "true",
            "HF_TOKEN": "hf_z",
            "HF_HUB_TOKEN": "hf_z",
            "PIN_PASSWORD": 1234,
            "MY_OWN": "who knows",
            "LANGSMITH": "who knows",
            "https_proxy": "http://me:pw@proxy",
        },
    }
    before = copy.deepcopy(recipe)
    assert masked(recipe) == {
        "hub_token": HIDDEN,
        "hub_private_repo": None,
        "model_init_kwargs": {"token": HIDDEN, "dtype": "float32", "use_auth_token": True},
        "methods": [{"api_key": HIDDEN, "k": 5}],
        "dataset_name": f"https://{HIDDEN}@host/rows.jsonl",
        "secret": HIDDEN,
        "env": recipe["env"]
        | dict.fromkeys(("HF_TOKEN", "HF_HUB_TOKEN", "PIN_PASSWORD", "MY_OWN", "LANGSMITH", "https_proxy"), HIDDEN),
    }
    assert recipe == before
    assert masked(masked(recipe)) == masked(recipe)


def test_words_of_a_command():
    words = ["--config", "a.yaml", "--hub_token", "hf_x", "--hub-token=hf_y", "--env", "{A: b, OMP_NUM_THREADS: 2}"]
    assert masked_words(words) == [
        *("--config", "a.yaml", "--hub_token", HIDDEN, f"--hub-token={HIDDEN}"),
        *("--env", json.dumps({"A": HIDDEN, "OMP_NUM_THREADS": 2})),
    ]
    methods = '{"dro": {"model_init_kwargs": {"token": "hf_x"}}}'
    assert masked_words(["--methods", methods]) == ["--methods", methods.replace("hf_x", HIDDEN)]
    for plain in (["--resume", "--seeds", "[0, 1]"], ["a: b", "{", "--k=1"]):
        assert masked_words(plain) == plain


def test_what_a_recipes_file_hides_is_given_to_the_process_that_reads_it(tmp_path, monkeypatch):
    recipe = read_recipe(Path(write_training_recipe(tmp_path)))
    recipe |= {"hub_token": "hf_x", "model_init_kwargs": {"token": "hf_y"}, "env": {"DRO_TRL_TEST_SECRET": "hf_z"}}
    path = tmp_path / "written.yaml"
    environment = write_recipe(recipe, path)
    assert "hf_" not in path.read_text()
    assert read_recipe(path) == masked(recipe)
    with pytest.raises(ValueError, match=r"written.yaml: hub_token is '<hidden>': it was hidden when"):
        parse_recipe(["--config", str(path)])
    monkeypatch.setenv(VARIABLE, environment[VARIABLE])
    monkeypatch.setenv("DRO_TRL_TEST_SECRET", "")
    _, args, _ = parse_recipe(["--config", str(path)])
    assert (args.hub_token, args.model_init_kwargs["token"]) == ("hf_x", "hf_y")
    assert revealed(read_recipe(path), "") == recipe
    assert revealed({"learning_rate": 1}, "") == {"learning_rate": 1}  # Of another recipe.


def test_options_do_not_give_their_secrets_away(tmp_path):
    """Trainer pickles them beside a model, and logs what they are; the hub's client gets the token itself."""
    args = DROConfig(
        str(tmp_path), use_cpu=True, hub_token="hf_x", model_init_kwargs={"token": "hf_y", "revision": "a"}
    )
    assert args.to_dict()["hub_token"] != "hf_x"
    for shown in (
        args.to_json_string(),
        pickle.dumps(args).decode("latin-1"),
        repr(args),
        repr(vars(args)),
        str(args),
    ):
        assert "hf_" not in shown
    for same in (args, copy.copy(args), copy.deepcopy(args)):
        assert f"Bearer {same.hub_token} {same.model_init_kwargs['token']}" == "Bearer hf_x hf_y"
    assert guarded({"revision": "a", "k": 1}) == {"revision": "a", "k": 1}
