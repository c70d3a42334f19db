"""FlashRAG: its JSON Lines, which are the same for all of its datasets."""

from collections.abc import Mapping
from typing import Any

from dro_trl.data.formats.base import SourceFormat, SourceQuestion, TitledText, answer_list
from dro_trl.data.formats.converting import text_id
from dro_trl.data.formats.hotpotqa import supporting_passages
from dro_trl.data.schema import check_text
from dro_trl.files.text_rows import read_json


def convert(row: dict[str, Any]) -> SourceQuestion:
    """Convert a row with `id`, `question`, `golden_answers` and, if any, `metadata`.

    Gold passages are those of HotpotQA's and 2WikiMultihopQA's fields, where `metadata` has them.

    Raises:
        ValueError: A field is missing or of another form, or there is no answer.
    """
    return SourceQuestion(
        id=text_id(row.get("id"), "id"),
        question=check_text(row.get("question"), "question"),
        answers=answer_list(row.get("golden_answers"), "golden_answers"),
        gold_passages=_gold(row.get("metadata")),
        gold_field="metadata.supporting_facts",
    )


def _gold(metadata: object) -> list[TitledText]:
    if not isinstance(metadata, Mapping) or "supporting_facts" not in metadata:
        return []
    try:
        return supporting_passages(metadata)
    except ValueError as error:
        raise ValueError(f"field 'metadata': {error}") from error


FORMAT = SourceFormat(read_json, convert)
