"""HotpotQA and 2WikiMultihopQA, whose official raw fields are the same."""

from collections.abc import Mapping
from typing import Any

from dro_trl.data.formats.base import SourceFormat, SourceQuestion, TitledText
from dro_trl.data.schema import check_text
from dro_trl.files.text_rows import read_json


def convert(row: dict[str, Any]) -> SourceQuestion:
    """Convert a row with `_id`, `question`, `answer`, `supporting_facts` and `context`.

    Raises:
        ValueError: A field is missing or of another form, or no title is given as gold.
    """
    return SourceQuestion(
        id=check_text(row.get("_id", row.get("id")), "_id"),
        question=check_text(row.get("question"), "question"),
        answers=[check_text(row.get("answer"), "answer")],
        gold_passages=supporting_passages(row),
        gold_field="supporting_facts",
    )


def supporting_passages(row: Mapping[str, Any]) -> list[TitledText]:
    """Return the passages that `supporting_facts` names, each once, in its order, with their texts in `context`.

    Both fields are lists of pairs in the official files, and dicts of lists on the hub and in FlashRAG's `metadata`.

    Raises:
        ValueError: A field is missing or of another form, or there are no supporting facts.
    """
    texts = {
        check_text(title, "context"): " ".join(sentences)
        for title, sentences in _pairs(row, "context", list, "lists of a title and a list of sentences")
    }
    facts = _pairs(row, "supporting_facts", int, "lists of a title and the number of a sentence")
    if not facts:
        raise ValueError("field 'supporting_facts': found an empty list; expected at least one gold title")
    titles = dict.fromkeys(check_text(title, "supporting_facts") for title, _ in facts)
    return [TitledText(title, texts.get(title, "")) for title in titles]


def _pairs(row: Mapping[str, Any], field: str, second: Any, expected: str) -> list[tuple[str, Any]]:
    value = row.get(field)
    fault = ValueError(f"field '{field}': found {value!r:.60}; expected {expected}, as in the official files")
    if isinstance(value, dict):
        titles, others = value.get("title"), next((value[name] for name in _SECOND_COLUMNS if name in value), None)
        if not isinstance(titles, list) or not isinstance(others, list) or len(titles) != len(others):
            raise fault
        value = [list(pair) for pair in zip(titles, others, strict=True)]
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


_SECOND_COLUMNS = ("sentences", "content", "sent_id")

FORMAT = SourceFormat(read_json, convert)
