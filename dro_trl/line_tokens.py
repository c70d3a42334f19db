"""The tokens of lines that were read before: a passage is a line, and stands in many prompts."""

import re
from array import array
from collections.abc import Sequence
from itertools import chain
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary

MOST_BYTES = 128 * 2**20
"""Kept for a tokenizer; the lines that were seen first go first."""
_END = r"(?<=\n)(?=\S)"
"""Where a line ends: before white space, tokenizers differ in what they join."""
_OVER_AN_END = re.compile(r"[\nĊ][^\sĊčĉĠ▁]")
"""In a tokenizer's vocabulary, where byte-level ones write white space as letters."""
_PROBES = ("one two.\nThree 4\n\nfive", "a: b\nc?\n\n\nd", ") \n(e]")


class LineTokens:
    """The tokens of the lines of one tokenizer.

    Args:
        tokenizer: A fast tokenizer of transformers.
    """

    def __init__(self, tokenizer: Any) -> None:
        start = tokenizer.bos_token  # A line of its own, so that a passage at the start of a text is the same line.
        self._ends = re.compile(f"{_END}|(?<={re.escape(start)})" if start else _END)
        self.by_line = _is_by_line(tokenizer, self._ends)
        """Whether a text's tokens are those of its lines."""
        self._size = len(tokenizer)
        self._kept: dict[str, array[int]] = {}
        self._bytes = 0
        self._lock = Lock()

    def encode(self, tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each text, without special tokens; what is new is tokenized in one call."""
        if not self.by_line:
            return _tokenize(tokenizer, texts)
        rows = [self._ends.split(text) for text in texts]
        with self._lock:
            new = [line for line in dict.fromkeys(chain(*rows)) if line not in self._kept]
            if new and len(tokenizer) != self._size:  # Tokens were added; a slow question, so only where it counts.
                self._kept, self._bytes, self._size = {}, 0, len(tokenizer)
                new = list(dict.fromkeys(chain(*rows)))
            for line, ids in zip(new, _tokenize(tokenizer, new), strict=True):
                self._kept[line] = array("I", ids)
                self._bytes += _size_of(line, ids)
            found = [list(chain.from_iterable(self._kept[line] for line in row)) for row in rows]
            while self._bytes > MOST_BYTES:
                line = next(iter(self._kept))
                self._bytes -= _size_of(line, self._kept.pop(line))
        return found


def _size_of(line: str, ids: Sequence[int]) -> int:
    return len(line) + 4 * len(ids) + 200


def _is_by_line(tokenizer: Any, ends: re.Pattern[str]) -> bool:
    if any(token.lstrip or token.rstrip for token in tokenizer.added_tokens_decoder.values()):
        return False  # Such a token takes the end of the line before it, or of its own.
    probes = (text for probe in _PROBES for text in (probe, f"{tokenizer.bos_token or ''}{probe}"))
    return not any(map(_OVER_AN_END.search, tokenizer.get_vocab())) and all(
        _tokenize(tokenizer, [text])[0] == list(chain(*_tokenize(tokenizer, ends.split(text)))) for text in probes
    )


def _tokenize(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    ids: list[list[int]] = tokenizer(list(texts), add_special_tokens=False)["input_ids"] if texts else []
    return ids


_OF_TOKENIZERS: WeakKeyDictionary[Any, LineTokens] = WeakKeyDictionary()


def line_tokens(tokenizer: Any) -> LineTokens:
    """Return what is kept for a tokenizer, nothing yet where it is new."""
    kept = _OF_TOKENIZERS.get(tokenizer)
    if kept is None:
        kept = _OF_TOKENIZERS[tokenizer] = LineTokens(tokenizer)
    return kept
