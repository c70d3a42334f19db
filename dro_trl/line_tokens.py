"""The tokens of lines that were read before: a passage is a line, and stands in many prompts."""

import re
from array import array
from collections.abc import Sequence
from itertools import chain
from typing import Any
from weakref import WeakKeyDictionary

MOST_TOKENS = 10_000_000
"""Kept for a tokenizer, 40 MB; those of the lines that were seen first go first."""
_LINES = re.compile(r"[^\n]+\n*|\n+")
_OVER_A_LINES_END = re.compile(r"[\nĊ][^\nĊ]")
"""In a tokenizer's vocabulary, where byte-level ones write a new line as the letter."""
_PROBES = ("one two.\nThree 4\n\nfive", "a: b\nc?\n\n\nd", ") \n(e]")


class LineTokens:
    """The tokens of the lines of one tokenizer.

    Args:
        tokenizer: A fast tokenizer of transformers.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.size = len(tokenizer)
        self.by_line = not any(map(_OVER_A_LINES_END.search, tokenizer.get_vocab())) and all(
            _tokenize(tokenizer, [probe])[0] == list(chain(*_tokenize(tokenizer, _LINES.findall(probe))))
            for probe in _PROBES
        )
        """Whether a text's tokens are those of its lines."""
        self._kept: dict[str, array[int]] = {}
        self._count = 0

    def encode(self, tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each text, without special tokens; what is new is tokenized in one call."""
        if not self.by_line:
            return _tokenize(tokenizer, texts)
        rows = [_LINES.findall(text) for text in texts]
        new = [line for line in dict.fromkeys(chain(*rows)) if line not in self._kept]
        for line, ids in zip(new, _tokenize(tokenizer, new), strict=True):
            self._kept[line] = array("I", ids)
            self._count += len(ids)
        found = [list(chain.from_iterable(self._kept[line] for line in row)) for row in rows]
        while self._count > MOST_TOKENS:
            self._count -= len(self._kept.pop(next(iter(self._kept))))
        return found


def _tokenize(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    ids: list[list[int]] = tokenizer(list(texts), add_special_tokens=False)["input_ids"] if texts else []
    return ids


_OF_TOKENIZERS: WeakKeyDictionary[Any, LineTokens] = WeakKeyDictionary()


def line_tokens(tokenizer: Any) -> LineTokens:
    """Return what is kept for a tokenizer; nothing yet where it is new, or tokens were added to it."""
    kept = _OF_TOKENIZERS.get(tokenizer)
    if kept is None or kept.size != len(tokenizer):
        kept = _OF_TOKENIZERS[tokenizer] = LineTokens(tokenizer)
    return kept
