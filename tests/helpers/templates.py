"""Chat templates as models have them, on a tokenizer of a few hundred tokens that knows their special tokens."""

import copy
import importlib.resources
import re

import pytest
from transformers import PreTrainedTokenizerFast

from tests.helpers.tiny_models import tiny_tokenizer

TURN_TOKENS = (
    "<|im_start|> <|im_end|> <|start|> <|end|> <|message|> <|channel|> <|return|> <|begin_of_text|> <|eot_id|> "
    "<|start_header_id|> <|end_header_id|> <start_of_turn> <end_of_turn> <｜User｜> <｜Assistant｜> "
    "<｜begin▁of▁sentence｜> <｜end▁of▁sentence｜> [gMASK] <sop> <|user|> <|assistant|> <|observation|> <|endoftext|>"
).split()
"""Special in the tokenizers whose templates are used here; `<think>` is not."""


def template_of(name: str) -> str:
    """Return one of the templates that TRL ships."""
    path = importlib.resources.files("trl") / "chat_templates" / f"{name}.jinja"
    if not path.is_file():
        pytest.skip(f"this version of TRL has no template {name}")
    return path.read_text(encoding="utf-8")


def with_template(template: str, eos_token: str = "</s>") -> PreTrainedTokenizerFast:
    """Return a tokenizer with a chat template, which ends texts with `eos_token`."""
    tokenizer = copy.deepcopy(tiny_tokenizer())
    vars(tokenizer).pop("_dro_turns", None)  # What another test had it read.
    tokenizer.add_special_tokens({"additional_special_tokens": [*TURN_TOKENS, *re.findall(r"<extra\d>", template)]})
    tokenizer.eos_token = eos_token
    tokenizer.chat_template = template
    return tokenizer
