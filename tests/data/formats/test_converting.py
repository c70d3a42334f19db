"""What all converters share: ids and titles held against a corpus, candidates, and what is counted."""

import re
import tracemalloc

import pytest

from dro_trl.data.formats import with_passages
from dro_trl.data.formats.base import SourceQuestion, TitledText, answer_list
from dro_trl.data.formats.converting import prepare_questions, text_id
from tests.helpers import preparing
from tests.helpers.preparing import prepare, write_lines

CORPUS = [
    {"id": "7", "title": "Paris", "text": "Paris is a city."},
    {"id": "8", "title": "Paris", "text": "Paris is a novel."},
    {"id": "9", "title": "Lyon", "text": "Lyon is a city."},
]


def question(**fields):
    return SourceQuestion(**{"question": "Q?", "answers": ["A"], **fields})


def run(*questions, **options):
    rows = [(number, {"at": number - 1}) for number in range(1, len(questions) + 1)]
    return preparing.run(rows, lambda row: questions[row["at"]], source="rows", **options)


def test_gold_ids_are_held_against_the_corpus():
    prepared = run(question(gold_ids=["9", "7", "9"]), question(gold_ids=["9", "3"], gold_field="ctxs"), corpus=CORPUS)
    assert [row["gold_ids"] for row in prepared.rows] == [["9", "7"]]
    assert (prepared.absent_ids, prepared.absent_titles, prepared.without_gold) == (1, 0, 0)
    [fault] = prepared.refused
    assert (fault.row, fault.reason) == (
        2,
        "field 'ctxs': found the ids ['3']; expected ids of passages in the corpus",
    )


def test_without_a_corpus_gold_ids_are_taken_as_they_are():
    prepared = run(question(gold_ids=["3", "3"]), question())
    assert prepared.rows == [
        {"id": "1", "question": "Q?", "answers": ["A"], "gold_ids": ["3"]},
        {"id": "2", "question": "Q?", "answers": ["A"]},
    ]
    assert prepared.without_gold == 1


def test_two_gold_passages_of_one_title_are_told_apart_by_text():
    gold = [TitledText("Paris", "Paris is a novel."), TitledText("Paris", "Paris is  a city.")]
    prepared = run(question(gold_passages=gold), corpus=CORPUS)
    assert prepared.rows[0]["gold_ids"] == ["8", "7"]
    assert (prepared.gold_by_text, prepared.gold_by_title) == (2, 0)


def test_rows_without_answers_are_counted():
    prepared = run(question(answers=None, gold_ids=["7"]))
    assert prepared.rows == [{"id": "1", "question": "Q?", "gold_ids": ["7"]}]
    assert prepared.without_answers == 1


def test_candidates_get_the_ids_of_the_corpus_or_of_their_content():
    found = [
        TitledText("Paris", "Paris is a novel."),
        TitledText("Lyon", "Lyon is a city."),
        TitledText("Paris", "Paris  is a novel."),
    ]
    [row] = run(question(candidates=found), corpus=CORPUS).rows
    assert [(passage["id"], passage["score"]) for passage in row["candidates"]] == [("8", 3.0), ("9", 2.0)]

    prepared = run(question(candidates=found), question(candidates=found[1:2]))
    first, second = prepared.rows
    assert prepared.repeated_candidates == 1
    assert first["candidates"][1]["id"] == second["candidates"][0]["id"] != first["candidates"][0]["id"]
    assert (first["candidates"][0]["title"], first["candidates"][0]["text"]) == found[0]


@pytest.mark.parametrize("passage", [TitledText("Paris", "Another text."), TitledText("Nice", "Nice is a city.")])
def test_a_candidate_that_the_corpus_lacks_is_a_fault(passage):
    prepared = run(question(candidates=[TitledText("Lyon", "Lyon is a city."), passage]), corpus=CORPUS)
    assert prepared.rows == []
    assert f"passages[1]: the corpus holds no passage '{passage.title}' with this text" in prepared.refused[0].reason


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("Paris", "field 'x': found \"Paris\"; expected a list of texts"),
        ([], "field 'x': found an empty list; expected at least one answer"),
        (["Paris", " "], "field 'x[1]': found empty text"),
        (["Paris", 3], "field 'x[1]': found 3; expected text"),
    ],
)
def test_answers_at_fault(value, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        answer_list(value, "x")


def test_answers_and_ids():
    assert answer_list(["a", "b", "a"], "x") == ["a", "b"]
    assert (text_id(17, "x"), text_id("17", "x")) == ("17", "17")
    for value in (None, True, 1.5, ""):
        with pytest.raises(ValueError, match="field 'x'"):
            text_id(value, "x")


class TestWithPassages:
    ROW = {"question": "Q?", "answers": ["A"], "passages": [{"title": "T", "text": "x"}, {"text": "y"}]}

    def test_passages_become_candidates_in_their_order(self, tmp_path):
        rows = [self.ROW, {**self.ROW, "id": 5}]
        prepared = prepare(with_passages.FORMAT, write_lines(tmp_path / "raw.jsonl", rows))
        assert [row["id"] for row in prepared.rows] == ["1", "5"]
        candidates = prepared.rows[0]["candidates"]
        assert [(c["title"], c["text"], c["score"]) for c in candidates] == [("T", "x", 2.0), ("", "y", 1.0)]

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"passages": []}, "field 'passages': found an empty list; expected at least one passage"),
            ({"passages": None}, "field 'passages': found nothing; expected a list of objects with title and text"),
            ({"passages": ["x"]}, "field 'passages[0]': found 'x'; expected an object with title and text"),
            ({"passages": [{"title": "T", "text": ""}]}, "field 'passages[0].text': found empty text"),
            ({"answers": "A"}, "field 'answers': found \"A\"; expected a list of texts"),
        ],
    )
    def test_faults(self, tmp_path, changes, message):
        prepared = prepare(with_passages.FORMAT, write_lines(tmp_path / "r.jsonl", [{**self.ROW, **changes}]))
        assert message in prepared.refused[0].reason

    @pytest.mark.realdata
    def test_the_real_file(self, shared_data):
        """5 of the 800 rows list one passage twice; the pool holds every passage with its very text."""
        file = shared_data / "nq_train_800_top5.jsonl"
        alone = prepare(with_passages.FORMAT, file)
        pooled = prepare(with_passages.FORMAT, file, shared_data / "wiki_pool_corpus.jsonl")
        for prepared in (alone, pooled):
            assert (len(prepared.rows), prepared.refused, prepared.repeated_candidates) == (800, [], 5)
            assert sum(len(row["candidates"]) for row in prepared.rows) == 3995
        assert [[c["text"] for c in row["candidates"]] for row in alone.rows] == [
            [c["text"] for c in row["candidates"]] for row in pooled.rows
        ]


def test_no_rows_are_held(tmp_path):
    """Of 8 MB of questions, and as much of a corpus, only ids and digests are in memory at any time."""
    text = "Lyon is a city. " * 500
    rows = ((number, {"at": number}) for number in range(1_000))
    corpus = ({"id": str(number), "title": f"T{number % 50}", "text": f"{number} {text}"} for number in range(1_000))
    kept = []
    tracemalloc.start()
    prepared = prepare_questions(
        rows,
        lambda row: question(gold_passages=[TitledText(f"T{row['at'] % 50}", f"{row['at']} {text}")]),
        lambda row: kept.append(row["gold_ids"]),
        source="rows",
        corpus=corpus,
        folder=tmp_path,
    )
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept == [[str(number)] for number in range(1_000)]
    assert (prepared.num_kept, prepared.gold_by_text) == (1_000, 1_000)
    assert peak < 2e6
    assert not list(tmp_path.iterdir())
