"""Conversion of the official raw fields, and the look-up of gold passages by title."""

import json

import pytest

from dro_trl.data.formats.hotpotqa import FORMAT
from dro_trl.files.writing import write_jsonl
from tests.helpers.preparing import prepare

CORPUS = [
    {"id": "0", "title": "Paris", "text": "Paris is a novel."},
    {"id": "1", "title": "Lyon", "text": "Lyon is a city."},
    {"id": "2", "title": "Paris", "text": "Paris is a  city. It lies on the Seine."},
]


def raw(number=1, **changes):
    good = {
        "_id": f"q{number}",
        "question": "Which city lies on the Seine?",
        "answer": "Paris",
        "supporting_facts": [["Paris", 0], ["Lyon", 0], ["Paris", 1]],
        "context": [["Paris", ["Paris is a city.", " It lies on the Seine."]], ["Lyon", ["Another text."]]],
    }
    return {**good, **changes}


@pytest.fixture
def corpus(tmp_path):
    write_jsonl(tmp_path / "corpus.jsonl", CORPUS)
    return tmp_path / "corpus.jsonl"


@pytest.mark.parametrize("name", ["raw.json", "raw.jsonl"])
def test_gold_passages_are_found_by_title_and_told_apart_by_text(tmp_path, corpus, name):
    """Two passages are called Paris: the second has the row's text. Lyon's differs from it, and is the only one."""
    rows = [raw(1), raw(2)]
    (tmp_path / name).write_text(json.dumps(rows) if name == "raw.json" else "\n".join(map(json.dumps, rows)))
    prepared = prepare(FORMAT, tmp_path / name, corpus)
    assert prepared.rows[0] == {
        "id": "q1",
        "question": "Which city lies on the Seine?",
        "answers": ["Paris"],
        "gold_ids": ["2", "1"],
    }
    assert (prepared.num_rows, len(prepared.rows), prepared.refused) == (2, 2, [])
    assert (prepared.gold_by_text, prepared.gold_by_title, prepared.absent_titles) == (2, 2, 0)


def test_without_the_same_text_the_first_passage_of_the_title_is_taken(tmp_path, corpus):
    write_jsonl(tmp_path / "raw.jsonl", [raw(context=[])])
    assert prepare(FORMAT, tmp_path / "raw.jsonl", corpus).rows[0]["gold_ids"] == ["0", "1"]


def test_absent_gold_titles_are_counted_and_the_row_refused(tmp_path, corpus):
    facts = [["Paris", 0], ["Nice", 0], ["Brest", 2]]
    write_jsonl(tmp_path / "raw.jsonl", [raw(1), raw(2, supporting_facts=facts)])
    prepared = prepare(FORMAT, tmp_path / "raw.jsonl", corpus)
    assert [row["id"] for row in prepared.rows] == ["q1"]
    assert prepared.absent_titles == 2
    [fault] = prepared.refused
    assert fault.row == 2
    assert "'supporting_facts': found the titles ['Nice', 'Brest']" in fault.reason


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"question": ""}, "field 'question': found empty text"),
        ({"answer": None}, "field 'answer': found nothing; expected text"),
        ({"_id": 5}, "field '_id': found 5; expected text"),
        ({"supporting_facts": []}, "field 'supporting_facts': found an empty list; expected at least one gold title"),
        ({"supporting_facts": {"title": ["Paris"]}}, "field 'supporting_facts': found {'title': ['Paris']}; expected"),
        ({"supporting_facts": [["Paris", "0"]]}, "lists of a title and the number of a sentence"),
        ({"context": [["Paris", "Paris is a city."]]}, "field 'context': found [['Paris', 'Paris is a city.']]"),
        ({"context": [["Paris", [None]]]}, "lists of a title and a list of sentences"),
    ],
)
def test_a_raw_row_at_fault_is_named(tmp_path, corpus, changes, message):
    write_jsonl(tmp_path / "raw.jsonl", [raw(1), raw(2, **changes)])
    prepared = prepare(FORMAT, tmp_path / "raw.jsonl", corpus)
    [fault] = prepared.refused
    assert fault.row == 2
    assert message in fault.reason
    assert len(prepared.rows) == 1


def test_a_limit_counts_the_rows_read(tmp_path, corpus):
    write_jsonl(tmp_path / "raw.jsonl", [raw(1), raw(2, answer=""), raw(3)])
    prepared = prepare(FORMAT, tmp_path / "raw.jsonl", corpus, limit=2)
    assert (prepared.num_rows, len(prepared.rows), len(prepared.refused)) == (2, 1, 1)


def test_a_corpus_at_fault_is_named(tmp_path, corpus):
    write_jsonl(tmp_path / "raw.jsonl", [raw()])
    with corpus.open("a") as file:
        file.write('{"title": "Paris", "text": "x"}\n')
    with pytest.raises(ValueError, match="corpus.jsonl:4: field 'id' is missing"):
        prepare(FORMAT, tmp_path / "raw.jsonl", corpus)


def test_the_columnar_form_of_the_hub_is_read_alike(tmp_path, corpus):
    pairs = raw()
    columns = {
        "_id": None,
        "id": "q1",
        "supporting_facts": {"title": ["Paris", "Lyon", "Paris"], "sent_id": [0, 0, 1]},
        "context": {"title": ["Paris", "Lyon"], "sentences": [sentences for _, sentences in pairs["context"]]},
    }
    columnar = {field: value for field, value in {**pairs, **columns}.items() if value is not None}
    write_jsonl(tmp_path / "raw.jsonl", [pairs, columnar])
    first, second = prepare(FORMAT, tmp_path / "raw.jsonl", corpus).rows
    assert first == second


def test_without_a_corpus_gold_titles_must_be_given_up(tmp_path):
    write_jsonl(tmp_path / "raw.jsonl", [raw()])
    with pytest.raises(
        ValueError, match="row 1: a gold passage is given by its title, 'Paris'; .*--corpus.*--no_gold"
    ):
        prepare(FORMAT, tmp_path / "raw.jsonl")
    [row] = prepare(FORMAT, tmp_path / "raw.jsonl", gold=False).rows
    assert row.keys() == {"id", "question", "answers"}


def test_no_rows_is_an_error(tmp_path, corpus):
    (tmp_path / "raw.json").write_text("[]")
    with pytest.raises(ValueError, match="raw.json: holds no rows"):
        prepare(FORMAT, tmp_path / "raw.json", corpus)


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "num_rows", "num_gold"),
    [
        ("hotpotqa_train", 100, 200),
        ("hotpotqa_dev", 200, 400),
        ("2wikimultihopqa_train", 500, 1184),
        ("2wikimultihopqa_dev", 164, 414),
    ],
)
def test_every_row_of_the_real_samples_is_kept(shared_data, name, num_rows, num_gold):
    prepared = prepare(FORMAT, shared_data / f"{name}_sample.jsonl", shared_data / "wiki_pool_corpus.jsonl")
    assert (prepared.num_rows, len(prepared.rows), prepared.refused) == (num_rows, num_rows, [])
    assert (prepared.gold_by_text, prepared.gold_by_title, prepared.absent_titles) == (num_gold, 0, 0)
