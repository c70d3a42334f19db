"""MuSiQue, from its official JSON Lines (`musique_ans_v1.0_*.jsonl`, and `musique_full_*` with unanswerable rows)."""

from collections.abc import Mapping
from typing import Any

from dro_trl.data.formats.base import SourceFormat, SourceQuestion, TitledText
from dro_trl.data.schema import check_list, check_text
from dro_trl.files.text_rows import read_json


def convert(row: dict[str, Any]) -> SourceQuestion:
    """Convert a row with `id`, `question`, `answer`, `answer_aliases`, `answerable` and `paragraphs`.

    Raises:
        ValueError: A field is missing or of another form, the row is marked unanswerable, or no paragraph is gold.
    """
    if row.get("answerable") is False:
        raise ValueError("field 'answerable': found false; expected a question that its paragraphs answer")
    aliases = check_list(row.get("answer_aliases", []), "answer_aliases", "a list of texts")
    answers = [row.get("answer"), *aliases]
    gold = supporting_paragraphs(row.get("paragraphs"))
    if not gold:
        raise ValueError("field 'paragraphs': found none with is_supporting true; expected at least one")
    return SourceQuestion(
        id=check_text(row.get("id"), "id"),
        question=check_text(row.get("question"), "question"),
        answers=list(dict.fromkeys(check_text(answer, "answer") for answer in answers)),
        gold_passages=gold,
        gold_field="paragraphs",
    )


def supporting_paragraphs(paragraphs: object) -> list[TitledText]:
    """Return the paragraphs marked `is_supporting`, in their order.

    Raises:
        ValueError: It is no list of objects with `title`, `paragraph_text` and `is_supporting`.
    """
    gold = []
    expected = "a list of objects with title, paragraph_text and is_supporting"
    for number, paragraph in enumerate(check_list(paragraphs, "paragraphs", expected)):
        where = f"paragraphs[{number}]"
        if not isinstance(paragraph, Mapping) or not isinstance(paragraph.get("is_supporting"), bool):
            raise ValueError(f"field '{where}': found {paragraph!r:.60}; expected an object with is_supporting")
        if paragraph["is_supporting"]:
            title = check_text(paragraph.get("title"), f"{where}.title")
            gold.append(TitledText(title, check_text(paragraph.get("paragraph_text"), f"{where}.paragraph_text")))
    return gold


FORMAT = SourceFormat(read_json, convert)
