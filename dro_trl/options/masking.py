"""Secrets in options: told by their names, hidden in whatever is written, and handed on to the processes that run."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

HIDDEN = "<hidden>"
"""What stands in place of a secret."""

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
