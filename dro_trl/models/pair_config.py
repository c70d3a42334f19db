"""What a pair's `dro_config.json` may say."""

import math
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from dro_trl.lm.prompts import prompt_texts
from dro_trl.models.files import named

REQUIRED = ("policy", "policy_kwargs", "prompt_texts", "num_selected", "num_candidates", "max_passage_tokens", "start")
"""What every version wrote."""


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_kwargs(value: Any) -> bool:
    return value is None or isinstance(value, dict) and not any(map(_is_nan, value.values()))


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _is_learnt(value: Any) -> bool:
    return _is_kwargs(value) and all(isinstance(weight, (int, float)) for weight in (value or {}).values())


def _is_start(value: Any) -> bool:
    is_pair = isinstance(value, dict) and value.keys() == {"selector", "generator"}
    return is_pair and all(path is None or isinstance(path, str) for path in value.values())


CHECKS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "policy": (lambda value: value is None or isinstance(value, str) and "." in value, "a dotted path or null"),
    "policy_kwargs": (_is_kwargs, "an object without NaN, or null"),
    "learnt_policy_kwargs": (_is_learnt, "an object of numbers, or null"),
    "start_policy_kwargs": (_is_learnt, "an object of numbers, or null"),
    "prompt_texts": (lambda value: value is None or isinstance(value, dict), "an object or null"),
    "num_selected": (_is_count, "a whole number from 1"),
    "num_candidates": (_is_count, "a whole number from 1"),
    "max_passage_tokens": (lambda value: value is None or _is_count(value), "a whole number from 1, or null"),
    "max_thinking_tokens": (lambda value: value in (None, 0) or _is_count(value), "a whole number from 0, or null"),
    "turns": (lambda value: value is None or isinstance(value, dict), "an object or null"),
    "shared_base": (lambda value: value is None or isinstance(value, bool), "true, false or null"),
    "start": (_is_start, "an object with the folder or name that selector and generator started from"),
}
"""Of each field whether a value is valid, and what is."""


def check_config(path: Path, config: Mapping[str, Any], fields: Collection[str]) -> None:
    """Refuse a config that no training wrote.

    Args:
        path: The file.
        config: What it holds.
        fields: Names of all that it may hold.

    Raises:
        ValueError: If a field is missing, unknown, or has no valid value.
    """
    if missing := [name for name in REQUIRED if name not in config]:
        raise ValueError(f"{path} lacks {named(missing)}; save or copy it again")
    if unknown := config.keys() - set(fields):
        raise ValueError(f"{path} sets {named(unknown)}, which there is not; there is {', '.join(fields)}")
    for name, (is_valid, wanted) in CHECKS.items():
        if name in config and not is_valid(config[name]):
            raise ValueError(f"{path}: {name} is {config[name]!r} and must be {wanted}")
    try:
        prompt_texts(config["prompt_texts"])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
