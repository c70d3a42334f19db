"""What the format of a public dataset tells of its questions."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from dro_trl.data.schema import check_list, check_text


class TitledText(NamedTuple):
    """A passage as a source quotes it: not by an id but by its title, and by its text where it gives one."""

    title: str
    text: str = ""


@dataclass(frozen=True)
class SourceQuestion:
    """A question as a source has it."""

    question: str
    answers: list[str] | None
    """Aliases of the answer; None where the source has no answers at all."""
    id: str | None = None
    """None where the source has none: the number of its row then stands for it."""
    gold_ids: list[str] = field(default_factory=list)
    """Ids of gold passages in the corpus that belongs to the source."""
    gold_passages: list[TitledText] = field(default_factory=list)
    """Gold passages that the source quotes."""
    gold_field: str = "gold_ids"
    """The source's own name of the field that both are from, for errors."""
    excluded_ids: list[str] = field(default_factory=list)
    """Ids of documents that retrieval is to leave out, such as the one that the question itself is."""
    candidates: list[TitledText] | None = None
    """Passages that somebody's retriever found, best first, where the source comes with them."""


@dataclass(frozen=True)
class SourceFormat:
    """How one public format is read."""

    read: Callable[[Path], Iterator[tuple[int, object]]]
    """Yields where each raw row stands, counted from 1, and the row, or the `ValueError` that says what is wrong."""
    convert: Callable[[dict[str, Any]], SourceQuestion]
    """Makes a question of a raw row, or raises `ValueError`."""


def answer_list(value: object, field: str) -> list[str]:
    """Return a list of at least one answer, each once.

    Raises:
        ValueError: It is none, or holds something other than text.
    """
    answers = check_list(value, field, 'a list of texts, such as ["Paris", "City of Paris"]')
    if not answers:
        raise ValueError(f"field '{field}': found an empty list; expected at least one answer")
    return list(dict.fromkeys(check_text(answer, f"{field}[{number}]") for number, answer in enumerate(answers)))
