"""One name for one thing, over all commands: hyphens or underscores, old names with a note, no name for two things."""

import inspect
import typing

import pytest
import typer
from typer.testing import CliRunner

from dro_trl.cli.app import app
from dro_trl.options.renamed import RENAMED, with_new_names
from dro_trl.options.values import Option
from dro_trl.recipes.options import TRAIN, WARMUP
from dro_trl.recipes.studies.parsing import OWN

COMMANDS = typer.main.get_command(app).commands
VALUES = {int: "3", float: "1.0", bool: None, list: "4"}


def options_of(name):
    return [p for p in COMMANDS[name].params if p.param_type_name == "option" and not p.is_eager]


def kind_of(name, parameter):
    """Return the type that a command's function gives a parameter, without its being optional."""
    hint = typing.get_type_hints(inspect.unwrap(COMMANDS[name].callback))[parameter.name]
    return kind(Option(hint))


def kind(option):
    """Return what an option's value is; of a list what an entry of it is, of paths and of words text."""
    one = option.items if option.has(list) else option
    return frozenset(found for found in (bool, int, float) if one.has(found)) or frozenset({str})


def value_of(name, parameter):
    hint = typing.get_type_hints(inspect.unwrap(COMMANDS[name].callback))[parameter.name]
    choices = Option(hint).choices
    return choices[0] if choices else next((v for k, v in VALUES.items() if Option(hint).has(k)), "some")


def parsed(name, words, given=()):
    """Return what a command's words mean; what is required besides, and not among the `given`, is there as well."""
    needed = [p for p in COMMANDS[name].params if p.required and p.name not in given and p.opts[0] not in words]
    more = [str(w) for p in needed if p.param_type_name == "option" for w in (p.opts[0], value_of(name, p))]
    arguments = ["x" for p in needed if p.param_type_name == "argument"]
    return COMMANDS[name].make_context(name, [*arguments, *words, *more]).params


EVERY = [(name, option) for name in COMMANDS for option in options_of(name)]
IDS = [f"{name} {option.opts[0]}" for name, option in EVERY]


@pytest.mark.parametrize(("name", "option"), EVERY, ids=IDS)
def test_hyphens_and_underscores_mean_the_same(name, option, capsys):
    for declared in (*option.opts, *option.secondary_opts):
        assert "-" not in declared.lstrip("-"), f"{declared} is declared with hyphens; the help would show those"
        if not declared.startswith("--"):
            continue
        hyphens = "--" + declared[2:].replace("_", "-")
        value = None if option.is_flag else str(value_of(name, option))
        found = parsed(name, [declared, *filter(None, [value])], {option.name})
        assert parsed(name, [hyphens, *filter(None, [value])], {option.name}) == found
        if value is None:
            assert found[option.name] is (declared in option.opts)
        else:
            assert parsed(name, [f"{hyphens}={value}"], {option.name}) == found
            [one] = found[option.name] if option.multiple else [found[option.name]]
            assert str(one) == value
    assert capsys.readouterr().err == ""


def test_a_name_has_one_kind_of_value_everywhere():
    """In all commands and recipes: `shuffle_candidates` is not a switch here and a number there."""
    kinds = {}
    for name, option in EVERY:
        for declared in option.opts:
            kinds.setdefault(declared.lstrip("-"), {})[name] = kind_of(name, option)
    recipes = {"train": TRAIN.options, "warmup": WARMUP.options, "compare": OWN}
    for name, options in recipes.items():
        for key, option in options.items():
            if key in kinds:
                kinds[key][name] = kind(option)
    assert {name: found for name, found in kinds.items() if len({*found.values()}) > 1} == {}


def test_what_a_recipe_and_a_command_share_has_the_recipes_name():
    """None of the old names is a name of another command, recipe or study, but in another command's meaning."""
    for command, names in RENAMED.items():
        own = {o.lstrip("-") for option in options_of(command) for o in option.opts if o.startswith("--")}
        for old, new in names.items():
            assert old not in own
            assert new in own or new in OWN
    shared = {"model_name_or_path", "model_revision", "dataset_name", "per_device_eval_batch_size", "num_candidates"}
    assert shared <= TRAIN.options.keys()
    assert shared <= {new for names in RENAMED.values() for new in names.values()}


@pytest.mark.parametrize(
    ("command", "old"), [(c, old) for c, names in RENAMED.items() if c != "compare" for old in names]
)
def test_an_old_name_is_taken_with_one_line(command, old, capsys):
    new = RENAMED[command][old]
    [option] = [o for o in options_of(command) if f"--{new}" in o.opts]
    value = str(value_of(command, option))
    expected = parsed(command, [f"--{new}", value], {option.name})
    for words in ([f"--{old}", value], [f"--{old}={value}"], [f"--{old.replace('_', '-')}", value]):
        assert parsed(command, words, {option.name}) == expected
        assert capsys.readouterr().err == f"note: --{old} is called --{new} now\n"


def test_a_value_that_looks_like_an_old_name_is_a_value(capsys):
    found = parsed("evaluate", ["--device", "--dataset", "--systems", "a", "b-c", "--seed", "3"])
    assert (found["device"], list(found["systems"]), found["seed"]) == ("--dataset", ["a", "b-c"], 3)
    assert capsys.readouterr().err == ""


def test_a_list_takes_several_words_or_the_option_several_times():
    found = parsed("evaluate", ["--cutoffs", "1", "5", "--cutoffs", "10", "--no-start"])["ks"]
    assert list(found) == [1, 5, 10]  # A tuple in the oldest typer.
    assert parsed("mix", ["--input", "a.jsonl", "b.jsonl", "--output", "c.jsonl"])["seed"] == 0
    question = COMMANDS["retrieve"].make_context("retrieve", ["--input", "a", "--output", "b", "-k", "7"]).params
    assert question["k"] == 7


def test_lines_of_yaml_keep_their_place_under_the_new_name(capsys):
    lines = {"limit": 3, "dataset": "nq", "input": "x"}
    assert list(with_new_names(lines, "prepare", "run.yaml: prepare").items()) == [
        ("max_samples", 3),
        ("format", "nq"),
        ("input", "x"),
    ]
    assert capsys.readouterr().err.splitlines() == [
        "note: run.yaml: prepare: dataset is called format now",
        "note: run.yaml: prepare: limit is called max_samples now",
    ]
    with pytest.raises(ValueError, match=r"^run.yaml: limit is the old name of max_samples, and both are set"):
        with_new_names({"limit": 3, "max_samples": 3}, "prepare", "run.yaml")


@pytest.mark.parametrize("words", [["nowhere"], ["--config", "nowhere"]])
def test_a_run_is_named_with_config_or_as_before(words):
    result = CliRunner().invoke(app, ["run", *words])
    assert result.exit_code == 2
    note = "note: the recipe is named with --config now: --config nowhere\n" if len(words) == 1 else ""
    assert result.stderr.startswith(f"{note}error: nowhere: No such file or directory")
    for wrong in ([], ["a", "--config", "b"]):
        result = CliRunner().invoke(app, ["run", *wrong])
        assert "error: name one recipe, with --config; found" in result.stderr
