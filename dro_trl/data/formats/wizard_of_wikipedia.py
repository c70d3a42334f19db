"""Wizard of Wikipedia: one question for each turn of the wizard, from ParlAI's JSON or from KILT's JSON Lines."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dro_trl.data.formats import kilt
from dro_trl.data.formats.base import SourceFormat, SourceQuestion, TitledText
from dro_trl.data.schema import check_list, check_text
from dro_trl.files.text_rows import read_json

_NOTHING_USED = "no_passages_used"


def read(path: Path) -> Iterator[tuple[int, object]]:
    """Read a file of either kind.

    Yields:
        As `SourceFormat.read`: the rows of a KILT file as they are; of a ParlAI file one row for each turn of the
        wizard, with the number of its dialogue.
    """
    for number, row in read_json(path):
        if isinstance(row, dict) and "dialog" in row:
            try:
                yield from ((number, turn) for turn in _wizard_turns(number, row))
            except ValueError as error:
                yield number, error
        else:
            yield number, row


def convert(row: dict[str, Any]) -> SourceQuestion:
    """Convert a turn: what was said before it is the question, what the wizard says is the answer.

    The utterances are joined by line breaks; before the first there is only the topic. The gold passage is the one
    that the wizard took a sentence from, by title; where the wizard took none the turn has no gold passage.

    Raises:
        ValueError: A field is missing or of another form.
    """
    if "history" not in row:
        return kilt.convert(row)
    title = _used_title(row["turn"], row["passages"])
    text = " ".join(row["passages"].get(title, []))
    return SourceQuestion(
        id=row["id"],
        question="\n".join(row["history"]) or row["topic"],
        answers=[row["turn"]["text"]],
        gold_passages=[] if title is None else [TitledText(title, text)],
        gold_field="checked_passage",
    )


def _wizard_turns(number: int, dialogue: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    topic = check_text(dialogue.get("chosen_topic"), "chosen_topic")
    passages = {topic: check_list(dialogue.get("chosen_topic_passage"), "chosen_topic_passage", "a list of sentences")}
    history: list[str] = []
    for position, turn in enumerate(check_list(dialogue["dialog"], "dialog", "a list of turns")):
        if not isinstance(turn, Mapping):
            raise ValueError(f"field 'dialog[{position}]': found {turn!r:.60}; expected an object")
        speaker = check_text(turn.get("speaker"), f"dialog[{position}].speaker")
        text = check_text(turn.get("text"), f"dialog[{position}].text")
        if speaker.endswith("Wizard"):
            yield {
                "id": f"{number}:{position}",
                "topic": topic,
                "history": list(history),
                "passages": dict(passages),
                "turn": turn,
            }
        history.append(text.strip())
        for retrieved in turn.get("retrieved_passages") or []:
            passages.update(retrieved)


def _used_title(turn: Mapping[str, Any], passages: Mapping[str, list[str]]) -> str | None:
    """Return the title of the passage that holds the wizard's sentence; `None` where there is none, or none is marked.

    The title that the wizard marked is sometimes not that of the sentence, which may stand in several passages.
    """
    marked = {}
    for field in ("checked_sentence", "checked_passage"):
        value = turn.get(field) or {}
        if not isinstance(value, Mapping):
            raise ValueError(f"field '{field}': found {value!r:.60}; expected an object of one entry")
        marked[field] = next(iter(value.values()), None)
    sentence, title = marked["checked_sentence"], marked["checked_passage"]
    if sentence in (None, _NOTHING_USED):
        return None
    holders = [holder for holder, sentences in passages.items() if sentence in sentences]
    if title in holders or not holders:
        return None if title in (None, _NOTHING_USED) else check_text(title, "checked_passage")
    return holders[0]


FORMAT = SourceFormat(read, convert)
