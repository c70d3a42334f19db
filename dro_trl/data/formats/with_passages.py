"""The one JSON form in which the authors of DRO keep their datasets: questions with the passages found for them."""

from collections.abc import Mapping
from typing import Any

from dro_trl.data.formats.base import SourceFormat, SourceQuestion, TitledText, answer_list
from dro_trl.data.formats.converting import text_id
from dro_trl.data.schema import check_list, check_text
from dro_trl.files.text_rows import read_json


def convert(row: dict[str, Any]) -> SourceQuestion:
    """Convert a row with `question`, `answers`, `passages` (a list of `{title, text}`, best first) and, if any, `id`.

    Raises:
        ValueError: A field is missing or of another form.
    """
    passages = check_list(row.get("passages"), "passages", "a list of objects with title and text")
    if not passages:
        raise ValueError("field 'passages': found an empty list; expected at least one passage")
    return SourceQuestion(
        id=text_id(row["id"], "id") if "id" in row else None,
        question=check_text(row.get("question"), "question"),
        answers=answer_list(row.get("answers"), "answers"),
        candidates=[_passage(passage, f"passages[{number}]") for number, passage in enumerate(passages)],
    )


def _passage(passage: object, where: str) -> TitledText:
    if not isinstance(passage, Mapping):
        raise ValueError(f"field '{where}': found {passage!r:.60}; expected an object with title and text")
    title = check_text(passage.get("title", ""), f"{where}.title", may_be_empty=True)
    return TitledText(title, check_text(passage.get("text"), f"{where}.text"))


FORMAT = SourceFormat(read_json, convert)
