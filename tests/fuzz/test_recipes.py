"""Damaged recipes are read as YAML says, or refused with the recipe's name."""

import os
import sys
from enum import Enum

import pytest
import yaml
from hypothesis import strategies as st

from dro_trl.recipes.arguments import parse_recipe
from tests.fuzz.mutations import DEEP, ODD, file_of
from tests.fuzz.outcomes import REFUSED, RIGHT, attempt

RECIPE = {
    "model_name_or_path": "start",
    "dataset_name": "rows.jsonl",
    "output_dir": "out",
    "num_selected": 2,
    "num_candidates": 5,
    "num_selections": 4,
    "learning_rate": 1e-5,
    "max_steps": 3,
    "num_iterations": 1,
    "train_generator": True,
    "kl_coef": 0.01,
    "policy_kwargs": {"retriever_prior": 0.5},
    "reward_funcs": ["dro_trl.token_f1_reward"],
    "loss_type": "dro",
    "use_peft": True,
    "lora_r": 4,
    "lora_target_modules": ["q_proj", "v_proj"],
    "seed": 7,
    "use_cpu": True,
    "bf16": False,
    "report_to": "none",
    "save_strategy": "no",
}
VALUES = [odd for odd in ODD if DEEP not in str(odd)] + ["false", "yes", "1", "2", "auto", "5e-5", "010", "1:30", "~"]
NAMES = [*RECIPE, "num_slected", "Seed", "epsilon_high", "temperature", "deepspeed", "env", "", "a b"]


@st.composite
def recipes(draw):
    value = dict(RECIPE)
    for _ in range(draw(st.integers(0, 2))):
        name = draw(st.sampled_from(NAMES))
        value.pop(name, None)
        if name == "deepspeed" or draw(st.integers(0, 9)):
            value[name] = draw(st.sampled_from(VALUES))
    text = yaml.safe_dump(value, sort_keys=False, allow_unicode=True)
    if draw(st.integers(0, 9)) == 0:
        text += draw(
            st.sampled_from(["seed: 8\n", "  more: 1\n", "{", "- a\n", "a: *b\n", "a: !!python/name:os.system\n"])
        )
    return draw(file_of(text))


def check(path, content):
    path.write_bytes(content)
    parts, message = attempt(lambda: parse_recipe(["--config", str(path)]), path)
    if parts is None:
        return REFUSED
    values = yaml.safe_load(content.removeprefix(b"\xef\xbb\xbf").decode())
    for name, value in values.items():
        found = next(getattr(part, name) for part in parts if hasattr(part, name))
        found = found.value if isinstance(found, Enum) else found
        wanted = [value, [value]]
        if isinstance(value, str):
            wanted += [yaml.safe_load(value)]
            wanted += [float(value)] if "e" in value and isinstance(found, float) else []
        assert name == "env" or found in wanted or str(found) == str(value) or name in REWRITTEN, (name, value, found)
    return RIGHT


REWRITTEN = ("report_to", "output_dir", "bf16")
"""Options that transformers gives another form."""


@pytest.fixture(autouse=True)
def untouched(monkeypatch):
    """Recipes extend the path of modules and the environment."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


def test_recipes(tmp_path, explore):
    explore(recipes(), lambda content: check(tmp_path / "recipe.yaml", content), 150)
