"""MuSiQue's official fields."""

import pytest

from dro_trl.data.formats.musique import FORMAT
from tests.helpers.preparing import prepare, write_lines


def paragraph(number, title, text, is_supporting):
    return {"idx": number, "title": title, "paragraph_text": text, "is_supporting": is_supporting}


ROW = {
    "id": "2hop__1_2",
    "question": "Who leads the town of Ann?",
    "answer": "Bea",
    "answer_aliases": ["Bea B.", "Bea"],
    "answerable": True,
    "question_decomposition": [],
    "paragraphs": [
        paragraph(0, "Ann", "Ann lives in Town.", True),
        paragraph(1, "Other", "Nothing.", False),
        paragraph(2, "Town", "Town is led by Bea.", True),
    ],
}
CORPUS = [
    {"id": "a", "title": "Town", "text": "Town had a wall."},
    {"id": "b", "title": "Town", "text": "Town is led by Bea."},
    {"id": "c", "title": "Ann", "text": "Ann lives in Town."},
]


def test_supporting_paragraphs_are_gold_and_aliases_are_answers(tmp_path):
    rows, corpus = write_lines(tmp_path / "raw.jsonl", [ROW]), write_lines(tmp_path / "corpus.jsonl", CORPUS)
    prepared = prepare(FORMAT, rows, corpus)
    assert prepared.rows == [
        {"id": "2hop__1_2", "question": ROW["question"], "answers": ["Bea", "Bea B."], "gold_ids": ["c", "b"]}
    ]
    assert (prepared.gold_by_text, prepared.gold_by_title) == (2, 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answerable": False}, "field 'answerable': found false; expected a question that its paragraphs answer"),
        ({"answer": ""}, "field 'answer': found empty text"),
        ({"paragraphs": ROW["paragraphs"][1:2]}, "found none with is_supporting true; expected at least one"),
        ({"paragraphs": [{"title": "x"}]}, "field 'paragraphs[0]': found {'title': 'x'}; expected an object with is_"),
        ({"paragraphs": [{"is_supporting": True, "title": "x"}]}, "field 'paragraphs[0].paragraph_text': found noth"),
    ],
)
def test_faults(tmp_path, changes, message):
    prepared = prepare(FORMAT, write_lines(tmp_path / "raw.jsonl", [{**ROW, **changes}]))
    assert message in prepared.refused[0].reason


@pytest.mark.realdata
def test_every_row_of_the_real_sample_is_kept(shared_data):
    """100 questions of 2 to 4 hops, each with as many gold paragraphs."""
    file = shared_data / "musique_train_sample.jsonl"
    prepared = prepare(FORMAT, file, shared_data / "wiki_pool_corpus.jsonl")
    assert (prepared.num_rows, len(prepared.rows), prepared.refused) == (100, 100, [])
    assert (prepared.absent_titles, prepared.gold_by_title, prepared.without_gold) == (0, 0, 0)
    assert all(len(row["gold_ids"]) == int(row["id"][0]) for row in prepared.rows)
