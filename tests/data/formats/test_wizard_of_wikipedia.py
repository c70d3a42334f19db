"""Dialogues as ParlAI distributes them, and the same task as KILT does."""

import json

import pytest

from dro_trl.data.formats.wizard_of_wikipedia import FORMAT
from tests.helpers.preparing import prepare, write_lines

BLUE, RED = ["Blue is a colour.", "The sky is blue."], ["Red is a colour.", "Blood is red."]


def turn(speaker, text, checked=None, title=None, retrieved=()):
    entry = {"speaker": speaker, "text": text, "retrieved_topics": [], "retrieved_passages": list(retrieved)}
    if "Wizard" in speaker:
        sentence = {} if checked is None else {f"chosen_{title}_0": checked}
        entry |= {"checked_sentence": sentence, "checked_passage": {} if title is None else {"chosen_topic_0": title}}
    return entry


def dialogue(*turns):
    return {
        "chosen_topic": "Blue",
        "persona": "I like the sky.",
        "wizard_eval": 5,
        "dialog": list(turns),
        "chosen_topic_passage": BLUE,
    }


DIALOGUE = dialogue(
    turn("0_Wizard", "The sky is, you know.", BLUE[1], "Blue"),
    turn("1_Apprentice", "And red? ", retrieved=[{"Red": RED}]),
    turn("0_Wizard", "It is a colour too.", RED[0], "Blue"),
    turn("1_Apprentice", "Thanks"),
    turn("0_Wizard", "Bye!", "no_passages_used", "no_passages_used"),
)
CORPUS = [
    {"id": "b", "title": "Blue", "text": "Blue is a song."},
    {"id": "c", "title": "Blue", "text": " ".join(BLUE)},
    {"id": "r", "title": "Red", "text": " ".join(RED)},
]


@pytest.fixture
def corpus(tmp_path):
    return write_lines(tmp_path / "corpus.jsonl", CORPUS)


def test_each_turn_of_the_wizard_is_a_question(tmp_path, corpus):
    """The second turn is marked with the title Blue; its sentence stands only in the passage Red."""
    (tmp_path / "train.json").write_text(json.dumps([dialogue(), DIALOGUE]))
    prepared = prepare(FORMAT, tmp_path / "train.json", corpus)
    history = ["The sky is, you know.", "And red?", "It is a colour too.", "Thanks"]
    assert prepared.rows == [
        {"id": "2:0", "question": "Blue", "answers": ["The sky is, you know."], "gold_ids": ["c"]},
        {"id": "2:2", "question": "\n".join(history[:2]), "answers": ["It is a colour too."], "gold_ids": ["r"]},
        {"id": "2:4", "question": "\n".join(history), "answers": ["Bye!"]},
    ]
    assert (prepared.num_rows, prepared.gold_by_text, prepared.without_gold) == (3, 2, 1)


def test_a_sentence_of_no_passage_in_view_leaves_the_marked_title(tmp_path, corpus):
    turns = [turn("0_Wizard", "x", "Unknown sentence.", "Red"), turn("0_Wizard", "y", "Unknown sentence.")]
    (tmp_path / "train.json").write_text(json.dumps([dialogue(*turns)]))
    first, second = prepare(FORMAT, tmp_path / "train.json", corpus).rows
    assert first["gold_ids"] == ["r"]
    assert "gold_ids" not in second


def test_rows_of_kilt(tmp_path):
    provenance = [{"wikipedia_id": "290", "title": "Blue", "start_paragraph_id": 1, "end_paragraph_id": 1}]
    row = {"id": "k1", "input": "Hi\nHello", "output": [{"answer": "Blue.", "provenance": provenance}]}
    prepared = prepare(FORMAT, write_lines(tmp_path / "wow-dev-kilt.jsonl", [row]))
    assert prepared.rows == [{"id": "k1", "question": "Hi\nHello", "answers": ["Blue."], "gold_ids": ["290:1"]}]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({**DIALOGUE, "chosen_topic": None}, "field 'chosen_topic': found nothing"),
        ({**DIALOGUE, "dialog": {}}, "field 'dialog': found {}; expected a list of turns"),
        (dialogue(turn("0_Wizard", "")), "field 'dialog[0].text': found empty text"),
        (dialogue({"text": "x"}), "field 'dialog[0].speaker': found nothing"),
        (dialogue({**turn("0_Wizard", "x"), "checked_sentence": "x"}), "field 'checked_sentence': found 'x'"),
        ({"text": "x"}, "field 'output': found nothing"),
    ],
)
def test_faults_name_the_dialogue(tmp_path, row, message):
    (tmp_path / "train.json").write_text(json.dumps([DIALOGUE, row]))
    prepared = prepare(FORMAT, tmp_path / "train.json", gold=False)
    [fault] = prepared.refused
    assert fault.row == 2
    assert message in fault.reason
    assert len(prepared.rows) == 3
