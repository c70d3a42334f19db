"""KILT's exact match and token F1: hand-worked values, and the properties they must keep."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dro_trl.metrics import exact_match, has_answer, normalize_answer, rouge_l, token_f1

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


class TestKiltScorer:
    """The definition that KILT's evaluation publishes (Petroni et al., 2021), written out once more without ours.

    An answer is lowered, freed of ASCII punctuation, of the words a, an and the, and of superfluous white space. EM is
    equality; F1 is the harmonic mean of precision and recall over the words with their multiplicities, 0 where no word
    is shared; each is the maximum over the true answers.
    """

    @staticmethod
    def normalized(text):
        kept = "".join(letter for letter in text.lower() if letter not in "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")
        # An article ends where a word character of regular expressions does: a letter, a digit or an underscore.
        pieces, word = [], ""
        for letter in kept + " ":
            if letter.isalnum() or letter == "_":
                word += letter
            else:
                pieces += [word if word not in ("a", "an", "the") else " ", letter]
                word = ""
        return "".join(pieces).split()

    def em(self, prediction, answers):
        return max(
            float(" ".join(self.normalized(prediction)) == " ".join(self.normalized(answer))) for answer in answers
        )

    def f1(self, prediction, answers):
        best = 0.0
        for answer in answers:
            predicted, expected = self.normalized(prediction), self.normalized(answer)
            shared = 0
            rest = list(expected)
            for word in predicted:
                if word in rest:
                    rest.remove(word)
                    shared += 1
            if shared:
                precision, recall = shared / len(predicted), shared / len(expected)
                best = max(best, 2 * precision * recall / (precision + recall))
        return best

    @pytest.mark.parametrize(
        ("prediction", "answers", "em", "f1"),
        [
            ("The U.S. Senate", ["us senate"], 1, 1),
            ("in 1912 in Paris", ["1912"], 0, 2 * (1 / 4) / (1 / 4 + 1)),  # precision 1/4, recall 1
            ("the the the cat", ["a cat cat"], 0, 2 * (1 * 1 / 2) / (1 + 1 / 2)),  # precision 1/1, recall 1/2
            ("new york new york", ["new york city", "york"], 0, 4 / 7),  # precision 2/4, recall 2/3 of the first
            ("A", ["an"], 1, 0),  # both are empty: equal, without a shared word
            ("Ludwig van Beethoven", ["Mozart", "van Beethoven"], 0, 0.8),  # precision 2/3, recall 1
            ("co-founder", ["co founder"], 0, 0),  # cofounder is one word
        ],
    )
    def test_values_worked_by_hand(self, prediction, answers, em, f1):
        for match, score in ((exact_match, token_f1), (self.em, self.f1)):
            assert match(prediction, answers) == em
            assert score(prediction, answers) == pytest.approx(f1)

    @given(text=words, answers=aliases)
    def test_ours_are_equal(self, text, answers):
        assert exact_match(text, answers) == self.em(text, answers)
        assert token_f1(text, answers) == pytest.approx(self.f1(text, answers))

    @given(text=st.text(), answers=st.lists(st.text(), min_size=1, max_size=2))
    def test_ours_are_equal_on_any_text(self, text, answers):
        assert exact_match(text, answers) == self.em(text, answers)
        assert token_f1(text, answers) == pytest.approx(self.f1(text, answers))


@pytest.mark.parametrize(
    ("prediction", "answers", "expected"),
    [
        ("police killed the gunman", ["police kill the gunman"], 3 / 4),  # "police the gunman": 3 of 4 and 3 of 4
        ("the gunman kill police", ["police kill the gunman"], 2 / 4),  # "the gunman": order counts
        ("blue is a colour", ["red", "blue is my favourite colour"], 2 * (3 / 4) * (3 / 5) / (3 / 4 + 3 / 5)),
        ("Blue!", ["blue"], 1),
        ("", ["blue"], 0),
        ("青", ["青"], 0),  # only ASCII letters and digits make words
    ],
)
def test_rouge_l_worked_by_hand(prediction, answers, expected):
    assert rouge_l(prediction, answers) == pytest.approx(expected)


@pytest.mark.parametrize("metric", [exact_match, token_f1, rouge_l, has_answer])
def test_answers_must_be_a_list_that_is_not_empty(metric):
    with pytest.raises(TypeError, match="answers is the string 'Paris'"):
        metric("Paris", "Paris")
    with pytest.raises(ValueError, match="answers is empty"):
        metric("Paris", [])
