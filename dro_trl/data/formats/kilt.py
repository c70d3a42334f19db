"""KILT: the JSON Lines of any of its tasks."""

from collections.abc import Iterator, Mapping
from typing import Any

from dro_trl.data.formats.base import SourceFormat, SourceQuestion, TitledText
from dro_trl.data.formats.converting import text_id
from dro_trl.data.schema import check_list, check_text
from dro_trl.files.text_rows import read_json


def convert(row: dict[str, Any]) -> SourceQuestion:
    """Convert a row with `id`, `input` and `output` (a list of `{answer, provenance}`).

    The gold passages are those of all outputs: the paragraphs by `<wikipedia_id>:<paragraph>`, as the reader of KILT's
    knowledge source names them, and the page by its title where the provenance has no paragraph.

    Raises:
        ValueError: A field is missing or of another form, or there is no answer, as in KILT's test files.
    """
    outputs = check_list(row.get("output"), "output", "a list of objects with answer and provenance")
    answers: list[str] = []
    ids: list[str] = []
    pages: list[TitledText] = []
    for number, output in enumerate(outputs):
        if not isinstance(output, Mapping):
            raise ValueError(f"field 'output[{number}]': found {output!r:.60}; expected an object")
        # On the hub an output without an answer has an empty one.
        if output.get("answer"):
            answers.append(check_text(output["answer"], f"output[{number}].answer"))
        for gold in _provenance(output, f"output[{number}].provenance"):
            if isinstance(gold, TitledText):
                pages.append(gold)
            else:
                ids.append(gold)
    if not answers:
        raise ValueError("field 'output': found no answer; expected at least one (test files have none)")
    return SourceQuestion(
        id=text_id(row.get("id"), "id"),
        question=check_text(row.get("input"), "input"),
        answers=list(dict.fromkeys(answers)),
        gold_ids=ids,
        gold_passages=list(dict.fromkeys(pages)),
        gold_field="output.provenance",
    )


def _provenance(output: Mapping[str, Any], field: str) -> Iterator[str | TitledText]:
    for number, entry in enumerate(check_list(output.get("provenance") or [], field, "a list of objects")):
        where = f"{field}[{number}]"
        if not isinstance(entry, Mapping):
            raise ValueError(f"field '{where}': found {entry!r:.60}; expected an object with wikipedia_id")
        first, last = entry.get("start_paragraph_id"), entry.get("end_paragraph_id")
        # Paragraph 0 is the title; the hub writes -1 where there is no paragraph.
        if not isinstance(first, int) or first < 1:
            yield TitledText(check_text(entry.get("title"), f"{where}.title"))
            continue
        last = first if last is None else last
        if not isinstance(last, int) or last < first:
            raise ValueError(
                f"field '{where}': found the paragraphs {first} to {last}; expected whole numbers in order"
            )
        page = text_id(entry.get("wikipedia_id"), f"{where}.wikipedia_id")
        yield from (f"{page}:{paragraph}" for paragraph in range(first, last + 1))


FORMAT = SourceFormat(read_json, convert)
