"""The schema: every fault of a row is an error that names row and field, what was found and what is expected."""

import copy
import re

import pytest
from datasets import Dataset

from dro_trl.data.row_checks import find_faults, validate_dataset
from dro_trl.data.schema import RowFault, check_columns, check_row, describe_faults

ROW = {
    "question": "Who wrote Faust?",
    "answers": ["Goethe", "Johann Wolfgang von Goethe"],
    "candidates": [
        {"id": "7", "title": "Faust", "text": "Faust is a play by Goethe.", "score": 3.5},
        {"id": "9", "title": "", "text": "Goethe was born in Frankfurt.", "score": 2},
    ],
    "gold_ids": ["7"],
}


def changed(path, value):
    """The good row with one value replaced, or left out where `value` is `...`."""
    row = copy.deepcopy(ROW)
    *parents, last = path
    inner = row
    for key in parents:
        inner = inner[key]
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    return row


FAULTS = [
    (("question",), ..., "field 'question' is missing"),
    (("question",), None, "field 'question' is null; expected a value"),
    (("answers", 1), 1969, "field 'answers[1]': found 1969; expected text, \"1969\" with quotes"),
    (
        ("answers",),
        '["Goethe"]',
        'expected a list of texts, such as ["Paris", "City of Paris"]; it is JSON in a string',
    ),
    (("candidates",), "[]", "score; it is JSON in a string: parse it first"),
    (("gold_ids",), '["7"]', "; it is JSON in a string: parse it first"),
    (("question",), " \n", "field 'question': found empty text; expected text that is more than white space"),
    (("question",), 3, "field 'question': found 3; expected text"),
    (("question",), "\ud800", "field 'question': found text that is not valid Unicode"),
    (("answers",), ..., "field 'answers' is missing"),
    (("answers",), "Goethe", "field 'answers': found \"Goethe\"; expected a list of texts"),
    (("answers",), [], "field 'answers': found an empty list; expected at least one answer"),
    (("answers", 1), "", "field 'answers[1]': found empty text"),
    (("answers", 0), None, "field 'answers[0]': found nothing; expected text"),
    (("candidates",), ..., "field 'candidates' is missing"),
    (("candidates",), [], "field 'candidates': found an empty list; expected at least one passage"),
    (("candidates",), {"id": ["7"]}, 'field \'candidates\': found {"id": ["7"]}; expected a list of objects'),
    (("candidates", 1), "text", "field 'candidates[1]': found \"text\"; expected an object with id"),
    (("candidates", 1, "id"), "7", "field 'candidates[1].id': found \"7\" a second time"),
    (("candidates", 1, "id"), 9, "field 'candidates[1].id': found 9; expected text"),
    (("candidates", 0, "text"), "  ", "field 'candidates[0].text': found empty text"),
    (("candidates", 0, "text"), ..., "field 'candidates[0].text' is missing"),
    (("candidates", 0, "title"), ["x"], "field 'candidates[0].title': found [\"x\"]; expected text"),
    (("candidates", 0, "score"), ..., "field 'candidates[0].score' is missing"),
    (("candidates", 0, "score"), "3", "field 'candidates[0].score': found \"3\"; expected a finite number"),
    (("candidates", 0, "score"), True, "field 'candidates[0].score': found true; expected a finite number"),
    (("candidates", 0, "score"), float("nan"), "field 'candidates[0].score': found NaN; expected a finite number"),
    (("candidates", 0, "score"), float("-inf"), "field 'candidates[0].score': found -Infinity"),
    (("candidates", 0, "score"), 10**400, "field 'candidates[0].score': found 1000"),
    (("gold_ids",), "7", "field 'gold_ids': found \"7\"; expected a list of passage ids"),
    (("gold_ids",), [7], "field 'gold_ids[0]': found 7; expected text"),
    (("gold_ids",), ["7", "7"], "field 'gold_ids[1]': found \"7\" a second time"),
]


@pytest.mark.parametrize(("path", "value", "message"), FAULTS)
def test_every_fault_is_named(path, value, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        check_row(changed(path, value))


def test_a_good_row_has_no_fault():
    assert find_faults(Dataset.from_list([ROW, changed(("gold_ids",), None), changed(("gold_ids",), [])])) == []


def test_candidates_may_be_absent_only_where_they_are_not_required():
    row = changed(("candidates",), ...)
    check_row(row, require_candidates=False)
    with pytest.raises(ValueError, match="'candidates' is missing"):
        check_row(row)
    with pytest.raises(ValueError, match="at least one passage"):
        check_row(changed(("candidates",), []), require_candidates=False)


def test_a_row_must_be_an_object():
    with pytest.raises(ValueError, match=r"found \[1, 2\]; expected a JSON object"):
        check_row([1, 2])


@pytest.mark.parametrize(("present", "meant"), [("answer", "answers"), ("query_question", "question")])
def test_a_missing_column_points_to_the_nearest(present, meant):
    columns = [present, *({"question", "answers"} - {meant})]
    with pytest.raises(ValueError, match=f"^x.csv: column '{meant}' is missing; did you mean '{present}'"):
        check_columns(columns, "x.csv", require_candidates=False)


def test_no_hint_points_to_a_column_of_the_schema():
    with pytest.raises(ValueError, match="column 'answers' is missing; the columns are") as caught:
        check_columns(["question", "candidates"], "x.csv")
    assert "did you mean" not in str(caught.value)


def test_a_dataset_in_memory_is_checked():
    validate_dataset(Dataset.from_list([ROW]), "train_dataset")
    faulty = Dataset.from_list([ROW, ROW, changed(("answers",), [])])
    with pytest.raises(ValueError, match="^train_dataset, row 3: field 'answers': found an empty list"):
        validate_dataset(faulty, "train_dataset")
    with pytest.raises(ValueError, match="^eval_dataset: column 'candidates' is missing.*dro-trl retrieve"):
        validate_dataset(faulty.remove_columns("candidates"), "eval_dataset")
    with pytest.raises(ValueError, match="^train_dataset: holds no rows"):
        validate_dataset(faulty.select([]), "train_dataset")


def test_a_dataset_with_a_format_is_checked_as_plain_values():
    validate_dataset(Dataset.from_list([ROW]).with_format("numpy"), "train_dataset")


def test_many_faults_are_counted_and_the_first_ten_told():
    text = describe_faults([RowFault(row, "bad") for row in range(1, 13)], "x.jsonl", 20)
    assert text.startswith("x.jsonl: 12 of 20 rows are faulty\n  row 1: bad\n")
    assert "  row 10: bad\n  and 2 more" in text
    assert "row 11" not in text
