"""KILT's task files, and their gold paragraphs in KILT's knowledge source."""

import pytest

from dro_trl.data.formats.kilt import FORMAT
from tests.helpers.preparing import prepare, write_lines

PAGE = {
    "_id": "290",
    "wikipedia_id": "290",
    "wikipedia_title": "Town",
    "text": ["Town\n", "Town is led by Bea.\n", "Section::::History.\n", "It had a wall.\n"],
}


def span(page, first, last, title="Town"):
    return {"wikipedia_id": page, "title": title, "start_paragraph_id": first, "end_paragraph_id": last}


ROW = {
    "id": "x1",
    "input": "who leads the town",
    "output": [
        {"answer": "Bea", "provenance": [{**span("290", 1, 1), "start_character": 0, "bleu_score": 1.0}]},
        {"answer": "Bea B."},
        {"answer": "Bea", "provenance": [span("290", 3, 3), span("290", 1, 1)]},
        {"provenance": [span("12", 4, 5)]},
    ],
    "meta": {},
}


def test_answers_and_the_paragraphs_of_all_outputs(tmp_path):
    prepared = prepare(FORMAT, write_lines(tmp_path / "nq-dev-kilt.jsonl", [ROW]))
    assert prepared.rows == [
        {
            "id": "x1",
            "question": "who leads the town",
            "answers": ["Bea", "Bea B."],
            "gold_ids": ["290:1", "290:3", "12:4", "12:5"],
        }
    ]


def test_gold_paragraphs_are_those_that_the_knowledge_source_is_read_into(tmp_path):
    corpus = write_lines(tmp_path / "knowledge.json", [PAGE])
    rows = [
        {**ROW, "output": ROW["output"][:1]},
        {**ROW, "output": [{"answer": "a", "provenance": [span(290, 2, 2)]}]},
    ]
    prepared = prepare(FORMAT, write_lines(tmp_path / "nq.jsonl", rows), corpus)
    assert [row["gold_ids"] for row in prepared.rows] == [["290:1"]]
    # Paragraph 2 is a heading, which is no passage.
    assert "field 'output.provenance': found the ids ['290:2']" in prepared.refused[0].reason


@pytest.mark.parametrize("first", [None, 0, -1])
def test_a_page_without_a_paragraph_is_looked_up_by_its_title(tmp_path, first):
    gold = {"wikipedia_id": "290", "title": "Town", "start_paragraph_id": first}
    rows = write_lines(tmp_path / "fever.jsonl", [{**ROW, "output": [{"answer": "SUPPORTS", "provenance": [gold]}]}])
    prepared = prepare(FORMAT, rows, write_lines(tmp_path / "knowledge.json", [PAGE]))
    assert prepared.rows[0]["gold_ids"] == ["290:1"]
    assert prepared.gold_by_title == 1
    with pytest.raises(ValueError, match="row 1: a gold passage is given by its title, 'Town'"):
        prepare(FORMAT, rows)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"output": None}, "field 'output': found nothing; expected a list of objects with answer and provenance"),
        ({"output": []}, "found no answer; expected at least one (test files have none)"),
        ({"output": [{"answer": "", "provenance": []}]}, "found no answer"),
        ({"output": [{"answer": "a", "provenance": [span("1", 5, 4)]}]}, "found the paragraphs 5 to 4"),
        (
            {"output": [{"answer": "a", "provenance": [span(None, 5, 6)]}]},
            "provenance[0].wikipedia_id': found nothing",
        ),
        ({"output": ["a"]}, "field 'output[0]': found 'a'; expected an object"),
        ({"input": " "}, "field 'input': found empty text"),
    ],
)
def test_faults(tmp_path, changes, message):
    prepared = prepare(FORMAT, write_lines(tmp_path / "raw.jsonl", [{**ROW, **changes}]))
    assert message in prepared.refused[0].reason
