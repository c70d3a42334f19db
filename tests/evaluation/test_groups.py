"""Questions grouped by a column."""

import json
from datetime import date

import pytest

from dro_trl.evaluation.groups import MOST_GROUPS, Column, column_of


def rows_of(*values):
    return [{"question": f"Q{number}?", "kind": value} for number, value in enumerate(values)]


@pytest.mark.parametrize(
    ("values", "groups"),
    [
        ([2, 1, 10, 2], [(1, [1]), (2, [0, 3]), (10, [2])]),
        (["b", "a", "b"], [("a", [1]), ("b", [0, 2])]),
        ([True, False, True], [(False, [1]), (True, [0, 2])]),
        ([0.5, None, 0.25], [(0.25, [2]), (0.5, [0]), (None, [1])]),
        ([None, None], [(None, [0, 1])]),
        (["null", None, ""], [("", [2]), ("null", [0]), (None, [1])]),
        (["1", 1, 2, "2", 1], [(1, [1, 4]), (2, [2]), ("1", [0]), ("2", [3])]),
    ],
)
def test_numbers_ascend_then_texts_then_nothing(values, groups):
    assert column_of(rows_of(*values), "kind").groups() == groups


def test_values_that_json_tells_apart_are_groups_apart():
    groups = column_of(rows_of(1, True, 1.0), "kind").groups()
    assert sorted((json.dumps(value), rows) for value, rows in groups) == [("1", [0]), ("1.0", [2]), ("true", [1])]


def test_a_row_without_the_field_holds_nothing():
    assert column_of([{"hops": 2}, {}, {"hops": 2}], "hops") == Column("hops", [2, None, 2])


def test_what_json_has_no_number_for_is_text():
    nan = float("nan")
    found = column_of(rows_of(nan, date(2020, 1, 2), nan, float("inf"), date(2020, 1, 2)), "kind")
    assert found.groups() == [("2020-01-02", [1, 4]), ("inf", [3]), ("nan", [0, 2])]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hop", "questions: column 'hop' is missing (did you mean 'hops'?); the columns are answers, hops, meta, "),
        ("zzz", "questions: column 'zzz' is missing; the columns are answers, hops, meta, question"),
        ("", "questions: column '' is missing; the columns are answers, hops, meta, question"),
        (
            "answers",
            "questions: column 'answers' holds a list; rows are grouped by text, a number, true or false; the ",
        ),
        ("meta", "questions: column 'meta' holds an object; rows are grouped by text, a number, true or false; the "),
        (
            "question",
            "questions: column 'question' has 21 values in 21 rows, and groups are 20 at most; name one with ",
        ),
    ],
)
def test_a_column_that_makes_no_groups_is_refused(name, message):
    rows = [{"question": f"Q{n}?", "hops": 1, "answers": ["a"], "meta": {"n": n}} for n in range(MOST_GROUPS + 1)]
    with pytest.raises(ValueError, match="^questions: ") as error:
        column_of(rows, name)
    assert str(error.value).startswith(message)
    assert str(error.value).endswith("the columns are answers, hops, meta, question")
    assert len(column_of(rows[1:], "question").groups()) == MOST_GROUPS
