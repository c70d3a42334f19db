"""Values of options: each fits its field's type and range, or one line says what would."""

import math
from dataclasses import dataclass, field
from typing import Literal

import pytest
from pydantic import PositiveInt

from dro_trl.options.values import UNKNOWN, Option, check_values, options_of
from dro_trl.options.yaml_text import read_yaml
from dro_trl.recipes.option_fields import declared_options
from dro_trl.recipes.options import KINDS, TRAIN, WARMUP

ODD = [
    *("[]", "{}", "[[1]]", "{a: 1}", "'{a: 1'", '""', "~", "-1", "0", "1", "1.5", "1e300", "99999999999999", "010"),
    *("0x1F", "1:30", "2024-01-01", "true", "no", "yes", "x", "'1'", "no.json"),
]


def outcome(option: Option, text: str) -> str:
    """Return what comes of a value, or what is said of it."""
    try:
        return repr(check_values({"it": read_yaml(text, "it")}, {"it": option}, "f.yaml")["it"])
    except ValueError as error:
        return str(error)


@pytest.mark.parametrize("name", KINDS)
def test_the_source_says_what_the_classes_say(name):
    """Under every version of the libraries, since what is found in their source alone is checked before torch."""
    from dro_trl.recipes.arguments import DROScriptArguments, RecipeModel
    from dro_trl.trainer.dro_config import DROConfig
    from dro_trl.trainer.warmup_config import WarmupConfig

    options = {"train": DROConfig, "warmup": WarmupConfig}[name]
    imported = {n: o for part in (DROScriptArguments, options, RecipeModel) for n, o in options_of(part).items()}
    read = declared_options(*KINDS[name].parts)
    assert read.keys() == imported.keys()
    for key, option in imported.items():
        assert read[key].nullable == option.nullable, key
        assert read[key].help == option.help != "", key
        # The default of `optim` depends on the version of torch.
        assert read[key].default == option.default or (key, read[key].default) == ("optim", UNKNOWN), key
        for kind in (bool, int, float, str, list, dict):
            assert read[key].has(kind) == option.has(kind), (key, kind)
        for odd in ODD:
            assert outcome(read[key], odd) == outcome(option, odd) or key == "parallelism_config", (key, odd)


@pytest.mark.parametrize("name", KINDS)
def test_every_field_takes_a_value_or_says_why_not(name):
    said = {(n, odd): outcome(o, odd) for n, o in KINDS[name].options.items() for odd in ODD}
    refused = {given: text for given, text in said.items() if text.startswith("f.yaml: it=")}
    assert all("\n" not in text and len(text) < 500 and " must be " in text for text in refused.values())
    for (key, odd), text in said.items() - refused.items():
        if key == "parallelism_config":  # Of accelerate, and refused whatever it is.
            continue
        option, kinds = KINDS[name].options[key], {"[": list, "{": dict, "T": bool, "F": bool}
        if text == "None":
            assert option.nullable or option.has(type(None)), (key, odd)
        elif text[0] in kinds:
            assert option.has(kinds[text[0]]) or (key, text) == ("trackio_static_space_id", "False"), (key, odd)
        elif text[0] in "-0123456789":
            assert option.has(int) or option.has(float) or key == "trackio_static_space_id", (key, odd)
        else:
            assert text[0] == "'", (key, odd)
    assert len(refused) > len(said) / 2


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("epsilon_high", -0.1, "epsilon_high=-0.1 must be a number above 0 or unset"),
        ("train_generator", [], r"train_generator=\[\] must be true or false"),
        ("train_generator", 1, "train_generator=1 must be true or false"),
        ("num_candidates", 0, "num_candidates=0 must be a whole number of at least 1"),
        ("num_selected", 2.0, "num_selected=2.0 must be a whole number of at least 1"),
        ("num_selected", None, "num_selected=None must be a whole number of at least 1"),
        ("deepspeed", True, "deepspeed=True must be `name: value` lines or text or unset"),
        ("deepspeed", "no.json", "deepspeed='no.json' is no file, and no `name: value` lines"),
        ("hub_token", 1234567, "hub_token='<hidden>' must be text or unset"),
        ("run_name", 10, "run_name=10 must be text or unset; if it is text, put it in quotes"),
        (
            "policy_kwargs",
            "{a: 1",
            "policy_kwargs='{a: 1' must be `name: value` lines or unset .not valid YAML: expected",
        ),
        ("reward_weights", [1, "x"], r"reward_weights=\[1, 'x'\] must be a list, each a number or unset"),
        ("optim", "adam", "optim='adam' must be one of 'adamw_torch', .*, …$"),
        ("save_strategy", True, "save_strategy=True must be one of 'no', 'steps', 'epoch', 'best'"),
        ("chat", "maybe", "chat='maybe' must be one of 'auto', 'true', 'false'"),
        ("max_steps", -2, "max_steps=-2 must be a whole number of at least -1"),
        ("adam_beta1", 1, "adam_beta1=1 must be a number of at least 0 and below 1"),
        ("lora_dropout", 1.0, "lora_dropout=1.0 must be a number of at least 0 and below 1"),
        ("seed", 2**32, "seed=4294967296 must be a whole number of at least 0 and at most 4294967295"),
        ("env", {"A": [1]}, "env={'A': .*} must be `name: value` lines"),
    ],
)
def test_what_is_no_value(name, value, message):
    with pytest.raises(ValueError, match=f"^f.yaml: {message}"):
        check_values({name: value}, TRAIN.options, "f.yaml")


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("learning_rate", 1, 1.0),
        ("learning_rate", "1e-4", 1e-4),
        ("adam_beta1", 0, 0.0),
        ("num_selected", "5", 5),
        ("train_generator", "no", False),
        ("bf16", "on", True),
        ("bf16", None, None),
        ("save_strategy", "no", "no"),
        ("chat", True, "true"),
        ("max_train_samples", None, None),
        ("max_train_samples", "null", None),
        ("run_name", "010", "010"),
        ("run_name", "null", "null"),
        ("policy_kwargs", '{"retriever_prior": 0.5}', {"retriever_prior": 0.5}),
        ("reward_weights", 2, [2]),
        ("reward_weights", ["2", "1e-1"], [2, 0.1]),
        ("reward_funcs", "mine.reward", ["mine.reward"]),
        ("reward_funcs", "[a.b, c.d]", ["a.b", "c.d"]),
        ("report_to", "none", "none"),
        ("report_to", ["a", "b"], ["a", "b"]),
        ("deepspeed", {"zero_optimization": {"stage": 2}}, {"zero_optimization": {"stage": 2}}),
    ],
)
def test_what_a_value_means(name, value, expected):
    found = check_values({name: value}, TRAIN.options, "f.yaml")[name]
    assert type(found) is type(expected)
    assert found == expected


def test_a_file_of_options_is_there(tmp_path):
    (tmp_path / "ds.json").write_text("{}")
    path = str(tmp_path / "ds.json")
    assert check_values({"deepspeed": path}, TRAIN.options, "f.yaml") == {"deepspeed": path}


def test_a_warm_up_has_options_of_its_own():
    assert check_values({"teacher": "gold"}, WARMUP.options, "f.yaml") == {"teacher": "gold"}
    with pytest.raises(ValueError, match="teacher='x' must be one of 'gold', 'likelihood', 'retriever', 'run'"):
        check_values({"teacher": "x"}, WARMUP.options, "f.yaml")
    assert not {"reward_funcs", "max_length", "packing"} & WARMUP.options.keys()


@dataclass
class Some:
    """Fields of several kinds."""

    kind: Literal["a", 1] = "a"
    several: list[PositiveInt] = field(default_factory=list)
    maybe: int = None  # type: ignore[assignment]
    hidden: int = field(default=0, init=False)


def test_the_fields_of_a_dataclass():
    options = options_of(Some)
    assert list(options) == ["kind", "several", "maybe"]
    given = {"kind": 1, "several": [1, 2], "maybe": None}
    assert check_values(given, options, "f") == given
    for name, value in (("kind", 2), ("several", [0]), ("maybe", math.nan)):
        with pytest.raises(ValueError, match=f"^f: {name}="):
            check_values({name: value}, options, "f")
