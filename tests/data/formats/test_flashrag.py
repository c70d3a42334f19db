"""FlashRAG's JSON Lines."""

import pytest

from dro_trl.data.formats.flashrag import FORMAT
from tests.helpers.preparing import prepare, write_lines

ROW = {"id": "dev_0", "question": "Who leads?", "golden_answers": ["Bea", "Bea B."]}
FACTS = {
    "type": "bridge",
    "supporting_facts": {"title": ["Town", "Ann"], "sent_id": [0, 0]},
    "context": {"title": ["Ann", "Town"], "sentences": [["Ann lives."], ["Bea leads. ", " She does."]]},
}
CORPUS = [
    {"id": "0", "contents": '"Town"\nTown is old.'},
    {"id": "1", "contents": '"Town"\nBea leads. She does.'},
    {"id": "2", "contents": '"Ann"\nAnn lives.'},
]


def test_golden_answers_and_gold_passages_of_the_metadata(tmp_path):
    corpus = write_lines(tmp_path / "wiki.jsonl", CORPUS)
    rows = write_lines(tmp_path / "dev.jsonl", [{**ROW, "metadata": FACTS}, {**ROW, "metadata": {}}, ROW])
    first, second, third = prepare(FORMAT, rows, corpus).rows
    assert first == {"id": "dev_0", "question": "Who leads?", "answers": ["Bea", "Bea B."], "gold_ids": ["1", "2"]}
    assert second == third == {field: first[field] for field in ("id", "question", "answers")}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"golden_answers": []}, "field 'golden_answers': found an empty list; expected at least one answer"),
        ({"question": None}, "field 'question': found nothing"),
        ({"metadata": {"supporting_facts": {"title": ["x"]}}}, "field 'metadata': field 'context': found None"),
    ],
)
def test_faults(tmp_path, changes, message):
    prepared = prepare(FORMAT, write_lines(tmp_path / "raw.jsonl", [{**ROW, **changes}]))
    assert message in prepared.refused[0].reason
