"""Secrets in options: told by their names, hidden in whatever is written, and handed on to the processes that run."""

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from dro_trl.files.writing import atomic_path
from dro_trl.recipes.file import dump_recipe

HIDDEN = "<hidden>"
"""What stands in place of a secret."""
VARIABLE = "DRO_TRL_SECRETS"
"""Environment variable by which a command gives a process what its recipe's file hides."""

_SECRET = set("secret secrets password passwords passwd passphrase pwd credential credentials apikey bearer".split())
_OF_A_KEY = set("access account api application app auth authentication client deploy encryption license".split())
_OF_A_KEY |= set("licence master private secret service session shared signing ssh storage subscription".split())
_OF_A_TOKENIZER = set(
    "answer audio begin bos boundary choice class cls decoder document encoder end eoa eod eog eom eos eot every "
    "extra false fill first forced identifier image infix last line mask middle negative new newline next no pad "
    "padding passage per positive prefix question relevant sep separator special split start stop suffix think "
    "thinking true turn unk unknown useful video yes".split()
)
"""What stands before `token` where it is one of a text: `pad_token`, `identifier_token`."""
_HARMLESS = (
    "ACCELERATE_ CUBLAS_ CUDA_ DS_ FSDP_ GLOO_ HF_DATASETS_ HF_HOME HF_HUB_ HF_XET_ HIP_ JAVA_HOME KMP_ LANG LC_ "
    "MALLOC_ MKL_ MPLBACKEND NCCL_ NUMEXPR_ NVIDIA_ OMP_ OPENBLAS_ PATH PYTHONPATH PYTORCH_ ROCR_ TMPDIR "
    "TOKENIZERS_ TORCH_ TORCHDYNAMO_ TORCHINDUCTOR_ TRANSFORMERS_ TRITON_ TZ WANDB_MODE WANDB_PROJECT XLA_"
).split()
"""Environment variables, or (with `_` at the end) beginnings of their names, whose values anyone may read."""
_PLAIN = re.compile(r"[-+]?\d{0,9}(\.\d{1,9})?|true|false|yes|no|on|off|offline|online|disabled", re.IGNORECASE)
_IN_URL = re.compile(r"(?<=://)[^/\s@]+(?=@)")


class Secret(str):
    """A secret that is used as any text, and is hidden where it is shown by its `repr` or pickled with options."""

    def __repr__(self) -> str:
        return repr(HIDDEN)

    def __reduce__(self) -> Any:
        return str, (HIDDEN,)

    def __copy__(self) -> "Secret":
        return self

    def __deepcopy__(self, memo: Any) -> "Secret":
        return self


def guarded(value: Any, name: str = "") -> Any:
    """Return an option's value with each secret in it as a `Secret`."""
    if isinstance(value, dict):
        return {key: guarded(entry, str(key)) for key, entry in value.items()}
    return Secret(value) if isinstance(value, str) and is_secret(name) else value


def is_secret(name: str) -> bool:
    """Whether an option or environment variable of this name holds a secret.

    It does where a word of the name is one such as `secret` or `password`; where its last word is `token`, unless the
    word before says that it is one of a text; and where its last words are such as `api_key` or `access_key_id`.
    Words end at underscores, hyphens, dots and capitals. Counts (`max_new_tokens`) and numbers of tokens
    (`pad_token_id`) are no secrets.

    >>> [is_secret(name) for name in ("hub_token", "OPENAI_API_KEY", "dbPassword", "pad_token", "max_new_tokens")]
    [True, True, True, False, False]
    """
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    found = [word for word in re.split(r"[^a-z0-9]+", words) if word]
    if not found:
        return False
    *before, last = found
    if _SECRET & set(found):
        return True
    if last == "token":
        return not before or before[-1] not in _OF_A_TOKENIZER
    if last == "id" and before[-1:] == ["key"]:
        *before, last = before
    return last in ("key", "keys") and bool(_OF_A_KEY & set(before))


def masked(value: Any, name: str = "", in_env: bool = False) -> Any:
    """Return options as they may be shown: secrets and passwords in URLs hidden, all else as it is.

    Switches and unset values stay. Of a recipe's `env`, what `is_secret` does not tell stays only where it is a
    number or a switch, or the variable is known to be harmless: others are named as their program likes.

    Args:
        value: An option's value, or options by their names.
        name: Of the option.
        in_env: Whether it is an environment variable.
    """
    if value is None or isinstance(value, bool):
        return value
    if not in_env and is_secret(name):
        return HIDDEN
    if isinstance(value, Mapping):
        return {key: masked(entry, str(key), name == "env") for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(masked(entry, name, in_env) for entry in value)
    if in_env and not _is_harmless(name, str(value)):
        return HIDDEN
    return _IN_URL.sub(HIDDEN, value) if isinstance(value, str) else value


def _is_harmless(name: str, value: str) -> bool:
    if is_secret(name):
        return False
    known = name in _HARMLESS or name.startswith(tuple(known for known in _HARMLESS if known.endswith("_")))
    return known or bool(_PLAIN.fullmatch(value))


def masked_words(words: Sequence[str]) -> list[str]:
    """Return the words of a command line as they may be shown; the value after `--name` may be YAML, as in recipes."""
    shown: list[str] = []
    name = ""
    for word in words:
        option, equals, value = word.partition("=")
        if word.startswith("--"):
            name = option[2:].replace("-", "_")
            shown.append(f"{option}={_masked_word(name, value)}" if equals else word)
            name = "" if equals else name
        else:
            shown.append(_masked_word(name, word))
    return shown


def _masked_word(name: str, word: str) -> str:
    try:
        value = yaml.safe_load(word)
    except yaml.YAMLError:
        value = word
    value = value if isinstance(value, (dict, list)) else word
    found = masked(value, name)
    if found == value:
        return word
    return found if isinstance(found, str) else json.dumps(found, ensure_ascii=False, default=str)


def write_recipe(recipe: Mapping[str, Any], path: Path) -> dict[str, str]:
    """Write a recipe with its secrets hidden.

    Returns:
        Environment in which `revealed` finds them again.
    """
    shown = masked(recipe)
    with atomic_path(path) as temporary:
        temporary.write_text(dump_recipe(shown), encoding="utf-8")
    return {VARIABLE: json.dumps(list(_changed(dict(recipe), shown, ())), default=str)}


def _changed(value: Any, shown: Any, path: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Yield each value that is shown otherwise, with where it stands."""
    if isinstance(value, Mapping) and isinstance(shown, Mapping):
        for key in value:
            yield from _changed(value[key], shown[key], (*path, key))
    elif isinstance(value, (list, tuple)) and isinstance(shown, (list, tuple)):
        for number, entry in enumerate(value):
            yield from _changed(entry, shown[number], (*path, number))
    elif value != shown:
        yield path, value


def revealed(recipe: dict[str, Any], source: str) -> dict[str, Any]:
    """Return a recipe with the secrets that `write_recipe` hid, as far as this process was given them.

    Args:
        recipe: As it was read; it is changed.
        source: Where from, for the error.

    Raises:
        ValueError: If one was not given.
    """
    for path, value in json.loads(os.environ.get(VARIABLE, "[]")):
        place: Any = recipe
        try:
            for step in path[:-1]:
                place = place[step]
            if HIDDEN in str(place[path[-1]]):
                place[path[-1]] = value
        except (KeyError, IndexError, TypeError):
            continue  # Of another recipe.
    for name, value in _leaves(recipe, ""):
        if isinstance(value, str) and HIDDEN in value:
            raise ValueError(
                f"{source}: {name} is {value!r}: it was hidden when this file was written; write it there, or run "
                "the command that wrote the file"
            )
    return recipe


def _leaves(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    parts = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else None
    if parts is None:
        yield name, value
    else:
        for key, entry in parts:
            yield from _leaves(entry, f"{name}.{key}" if name else str(key))
