"""HotpotQA and 2WikiMultihopQA, from their official raw fields, which are the same, to this project's rows."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dro_trl.data.jsonl import read_json
from dro_trl.data.schema import RowFault, check_text

TitledPassages = dict[str, list[tuple[str, str]]]
"""The passages of a corpus by title: pairs of id and text, in the order of the corpus."""


@dataclass(frozen=True)
class PreparedQuestions:
    """The converted rows, and what was left out and why."""

    rows: list[dict[str, Any]]
    """`id`, `question`, `answers` (one), `gold_ids` (passages of the corpus, one for each gold title)."""
    num_rows: int
    """How many rows were read."""
    refused: list[RowFault]
    """All rows left out, in the order of the source."""
    absent_titles: int
    """How many gold titles, counted once in each row, the corpus does not have."""
    gold_by_text: int
    """How many gold passages have the very text that the row gives for their title."""
    gold_by_title: int
    """How many are only the corpus's first passage of that title, with another text."""


def prepare_questions(source: Path, corpus: Path, *, limit: int | None = None) -> PreparedQuestions:
    """Convert raw questions, and look up their gold passages in a corpus by title.

    Where several passages of the corpus have a gold title, the one with the text of the row's own `context` is taken,
    white space aside, and else the first.

    Args:
        source: Raw questions (`_id`, `question`, `answer`, `supporting_facts`, `context`), a JSON list or JSON Lines.
        corpus: JSON Lines of passages with `id`, `title` and `text`.
        limit: Read only the first so many rows.

    Returns:
        The rows that could be converted, and those that could not with the reasons.

    Raises:
        FileNotFoundError: `source` or `corpus` is not there.
        ValueError: `source` holds no rows or is no JSON at all, or a line of `corpus` is not a passage.
    """
    questions: list[tuple[int, Mapping[str, Any], dict[str, str]]] = []
    refused: list[RowFault] = []
    num_rows = 0
    for number, row in read_json(source):
        if limit is not None and num_rows == limit:
            break
        num_rows += 1
        try:
            questions.append((number, *_check_raw(row)))
        except ValueError as error:
            refused.append(RowFault(number, str(error)))
    if not num_rows:
        raise ValueError(f"{source}: holds no rows")
    passages = _passages_by_title(corpus, {title for _, _, gold in questions for title in gold})
    return _resolve(questions, passages, corpus, num_rows, refused)


def _resolve(
    questions: Iterable[tuple[int, Mapping[str, Any], dict[str, str]]],
    passages: TitledPassages,
    corpus: Path,
    num_rows: int,
    refused: list[RowFault],
) -> PreparedQuestions:
    rows, absent_titles, by_text, by_title = [], 0, 0, 0
    for number, raw, gold in questions:
        absent = [title for title in gold if title not in passages]
        if absent:
            absent_titles += len(absent)
            reason = f"field 'supporting_facts': found the titles {absent}; expected titles of passages in {corpus}"
            refused.append(RowFault(number, reason))
            continue
        found = [_gold_passage(passages[title], text) for title, text in gold.items()]
        by_text += sum(same_text for _, same_text in found)
        by_title += sum(not same_text for _, same_text in found)
        rows.append(
            {
                "id": raw["_id"],
                "question": raw["question"],
                "answers": [raw["answer"]],
                "gold_ids": [passage_id for passage_id, _ in found],
            }
        )
    return PreparedQuestions(
        rows, num_rows, sorted(refused, key=lambda fault: fault.row), absent_titles, by_text, by_title
    )


def _gold_passage(passages: list[tuple[str, str]], text: str) -> tuple[str, bool]:
    """Return the id of the passage meant, and whether its text is the row's."""
    same = [passage_id for passage_id, candidate in passages if _squeezed(candidate) == text]
    return (same[0], True) if same else (passages[0][0], False)


def _check_raw(row: object) -> tuple[Mapping[str, Any], dict[str, str]]:
    """Check a raw row.

    Returns:
        The row, and its gold titles in the order of `supporting_facts`, each with the text that the row has for it.
    """
    if isinstance(row, ValueError):
        raise row
    if not isinstance(row, dict):
        raise ValueError(f"found {row!r:.60}; expected a JSON object")
    for field in ("_id", "question", "answer"):
        check_text(row.get(field), field)
    texts = {
        check_text(title, "context"): _squeezed(" ".join(sentences))
        for title, sentences in _pairs(row, "context", list, "lists of a title and a list of sentences")
    }
    gold = {
        check_text(title, "supporting_facts"): texts.get(title, "")
        for title, _ in _pairs(row, "supporting_facts", int, "lists of a title and the number of a sentence")
    }
    if not gold:
        raise ValueError("field 'supporting_facts': found an empty list; expected at least one gold title")
    return row, gold


def _pairs(row: Mapping[str, Any], field: str, second: Any, expected: str) -> list[tuple[str, Any]]:
    value = row.get(field)
    fault = ValueError(f"field '{field}': found {value!r:.60}; expected {expected}, as in the official files")
    if not isinstance(value, list):
        raise fault
    for pair in value:
        if not (
            isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str) and isinstance(pair[1], second)
        ):
            raise fault
        if second is list and not all(isinstance(sentence, str) for sentence in pair[1]):
            raise fault
    return [(title, other) for title, other in value]


def _passages_by_title(corpus: Path, titles: set[str]) -> TitledPassages:
    """Find the passages that have one of `titles`; the others are not kept, since a corpus may be of any size."""
    passages: TitledPassages = {}
    for number, passage in read_json(corpus):
        try:
            if isinstance(passage, ValueError):
                raise passage
            if not isinstance(passage, dict):
                raise ValueError(f"found {passage!r:.60}; expected a JSON object")
            if passage.get("title") in titles:
                entry = (check_text(passage.get("id"), "id"), check_text(passage.get("text"), "text"))
                passages.setdefault(passage["title"], []).append(entry)
        except ValueError as error:
            raise ValueError(f"{corpus}, row {number}: {error}") from error
    return passages


def _squeezed(text: str) -> str:
    return " ".join(text.split())
