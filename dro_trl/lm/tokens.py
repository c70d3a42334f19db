"""Tokens: of lines that were read before, since a passage stands in many prompts, and of texts that are but text."""

import re
from array import array
from collections.abc import Sequence
from itertools import chain
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary

from dro_trl.lm.turns import special_tokens

Tokenizer = Any
"""A fast tokenizer of transformers (its stubs do not type the calls made here)."""

MOST_BYTES = 128 * 2**20
"""Kept for a tokenizer; the lines that were seen first go first."""
_END = r"(?<=\n)(?=\S)"
"""Where a line ends: before white space, tokenizers differ in what they join."""
_OVER_AN_END = re.compile(r"[\nĊ][^\sĊčĉĠ▁]")
"""In a tokenizer's vocabulary, where byte-level ones write white space as letters."""
_FIRST_MARK = 0xF0000
"""Of the characters for private use that stand for the first letters of special tokens which are but text."""
_ANY_MARK = re.compile("[\U000f0000-\U000ffffd]")
_NOTHING = r"(?!)"
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
        self._lock = Lock()
        self._begin(tokenizer)

    def _begin(self, tokenizer: Any) -> None:
        self._size = len(tokenizer)
        self._kept: dict[str, array[int]] = {}
        self._bytes = 0
        tokens = special_tokens(tokenizer)
        added = tokenizer.added_tokens_decoder.values()
        self._takes_before = {token.content for token in added if token.lstrip}
        self._takes_behind = {token.content for token in added if token.rstrip}
        self._special = re.compile("|".join(map(re.escape, tokens)) or _NOTHING)
        # Of the same length, so that places in a text stay where they are.
        self._marks = {token: chr(_FIRST_MARK + number) + token[1:] for number, token in enumerate(tokens)}
        self._marked = re.compile("|".join(map(re.escape, self._marks.values())) or _NOTHING)
        self._texts = {mark: token for token, mark in self._marks.items()}

    def plain(self, text: str) -> str:
        """Mark what would be read as special tokens, so that `encode` takes it for the text that it is.

        A text without any, as nearly all are, is returned as it is; others keep their length.
        """
        return self._special.sub(lambda found: self._marks[found[0]], text)

    def special_in(self, text: str) -> list[str]:
        """Return what `plain` would mark in a text."""
        return self._special.findall(text)

    def marked_in(self, text: str) -> list[str]:
        """Return the special tokens that `plain` has marked in a text."""
        return [self._texts[mark] for mark in self._marked.findall(text)]

    def _tokenize(self, tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
        found = _tokenize(tokenizer, texts)
        for number in [number for number, text in enumerate(texts) if _ANY_MARK.search(text)]:
            found[number] = []
            parts = re.split(f"({self._special.pattern})", texts[number])
            for place in range(1, len(parts), 2):  # Where tokens take the white space beside them, they do so here.
                if parts[place] in self._takes_before:
                    parts[place - 1] = parts[place - 1].rstrip()
                if parts[place] in self._takes_behind:
                    parts[place + 1] = parts[place + 1].lstrip()
            for place, part in enumerate(parts):
                if place % 2:
                    found[number].append(tokenizer.convert_tokens_to_ids(part))
                elif part:
                    as_it_is = self._marked.sub(lambda mark: self._texts[mark[0]], part)
                    options = {"add_special_tokens": False, "split_special_tokens": True}
                    found[number] += tokenizer(as_it_is, **options)["input_ids"]
        return found

    def encode(self, tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each text, without special tokens; what is new is tokenized in one call."""
        if not self.by_line:
            return self._tokenize(tokenizer, texts)
        rows = [self._ends.split(text) for text in texts]
        with self._lock:
            new = [line for line in dict.fromkeys(chain(*rows)) if line not in self._kept]
            if new and len(tokenizer) != self._size:  # Tokens were added; a slow question, so only where it counts.
                self._begin(tokenizer)
                new = list(dict.fromkeys(chain(*rows)))
            for line, ids in zip(new, self._tokenize(tokenizer, new), strict=True):
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
