"""KILT's exact match and token F1: hand-worked values, and the properties they must keep."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dro_trl.metrics import exact_match, normalize_answer, token_f1

words = st.text(alphabet="abthe .,-“é", max_size=12)
aliases = st.lists(words, min_size=1, max_size=3)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Beatles", "beatles"),
        ("  an   Apple\ta\nDay ", "apple day"),
        ("theatre", "theatre"),  # an article only as a whole word
        ("U.S.A.", "usa"),
        ("T.H.E", ""),  # punctuation goes first, so this becomes the article
        ("rock-and-roll", "rockandroll"),  # deleted, not replaced by a space
        ("“curly” – dash…", "“curly” – dash…"),  # only ASCII punctuation is deleted
        ("ÉCOLE", "école"),  # lowercased, accents kept
        ("", ""),
        ("a. the!", ""),
    ],
)
def test_normalize_answer(text, expected):
    assert normalize_answer(text) == expected


@pytest.mark.parametrize(
    ("prediction", "answers", "match", "f1"),
    [
        ("Paris", ["London", "paris."], 1.0, 1.0),
        ("yes", ["yes"], 1.0, 1.0),
        ("no", ["yes"], 0.0, 0.0),
        ("yes it is", ["yes"], 0.0, 0.5),  # precision 1/3, recall 1; HotpotQA's own script would give 0
        ("", ["Paris"], 0.0, 0.0),
        ("", ["The"], 1.0, 0.0),  # both normalise to nothing: equal strings, no shared word
        ("“Paris”", ["Paris"], 0.0, 0.0),  # curly quotes stay, so the words differ
        ('"Paris"', ["Paris"], 1.0, 1.0),
    ],
)
def test_scores_worked_by_hand(prediction, answers, match, f1):
    assert exact_match(prediction, answers) == match
    assert token_f1(prediction, answers) == pytest.approx(f1)


def test_token_f1_counts_repeated_words_once_each_and_takes_the_best_alias():
    """ "new new york" vs "new york city": 2 shared, precision 2/3, recall 2/3; vs "york": precision 1/3, recall 1."""
    assert token_f1("New, new York", ["York"]) == pytest.approx(1 / 2)
    assert token_f1("New, new York", ["York", "New York City"]) == pytest.approx(2 / 3)


@given(words, aliases)
def test_bounds_and_order(prediction, answers):
    match, f1 = exact_match(prediction, answers), token_f1(prediction, answers)
    assert match in (0.0, 1.0)
    assert 0.0 <= f1 <= 1.0
    if normalize_answer(prediction):
        assert match <= f1


@given(words, words)
def test_f1_is_symmetric(one, other):
    assert token_f1(one, [other]) == token_f1(other, [one])


@given(words, aliases, words)
def test_a_further_alias_never_lowers_a_score(prediction, answers, alias):
    assert exact_match(prediction, [*answers, alias]) >= exact_match(prediction, answers)
    assert token_f1(prediction, [*answers, alias]) >= token_f1(prediction, answers)


@given(words)
def test_normalising_twice_changes_no_words(text):
    once = normalize_answer(text)
    assert normalize_answer(once) == once


@pytest.mark.parametrize("metric", [exact_match, token_f1])
def test_errors(metric):
    with pytest.raises(ValueError, match="answers is empty: give at least one alias"):
        metric("Paris", [])
    with pytest.raises(TypeError, match=r"answers is the string 'Paris': pass a list of aliases, \['Paris'\]"):
        metric("Paris", "Paris")
