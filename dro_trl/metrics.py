"""EM and token F1 of short answers, as KILT defines them, and ROUGE-L of longer ones: pure functions on strings."""

import re
import string
from collections import Counter
from collections.abc import Sequence

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalize_answer(text: str) -> str:
    """Lowercase `text`, delete ASCII punctuation, drop the articles a, an, the, and collapse whitespace.

    As in KILT, only ASCII punctuation is deleted (`string.punctuation`): curly quotes and long dashes stay. It is
    deleted, not replaced by a space, so hyphenated words are joined.

    Args:
        text: Any string.

    Returns:
        The normalised string, empty when nothing but punctuation, articles and whitespace was there.

    Examples:
        >>> normalize_answer("  The Eiffel-Tower, (Paris)! ")
        'eiffeltower paris'
        >>> normalize_answer("a “quoted” name")
        '“quoted” name'
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """Return 1.0 where the normalised prediction equals a normalised alias, else 0.0.

    An answer that normalises to nothing ("The", "...") is matched by any prediction that does so too, the empty one
    included: that is KILT's comparison of normalised strings.

    Args:
        prediction: The answer to judge.
        answers: Aliases of the true answer, at least one.

    Returns:
        1.0 or 0.0.

    Raises:
        TypeError: `answers` is one string in place of a list.
        ValueError: `answers` is empty.

    Examples:
        >>> exact_match("the Beatles.", ["Fab Four", "Beatles"])
        1.0
        >>> exact_match("yes, it is", ["yes"])
        0.0
    """
    _check_aliases(answers)
    normalized = normalize_answer(prediction)
    return float(any(normalized == normalize_answer(answer) for answer in answers))


def token_f1(prediction: str, answers: Sequence[str]) -> float:
    """Return the best F1 between the word multisets of the normalised prediction and of a normalised alias.

    As in KILT, no shared word gives 0, so that two strings which both normalise to nothing score 0 (though they match
    exactly), and "yes" and "no" are words like any other (HotpotQA's own script gives them no partial credit).

    Args:
        prediction: The answer to judge.
        answers: Aliases of the true answer, at least one.

    Returns:
        A number in [0, 1].

    Raises:
        TypeError: `answers` is one string in place of a list.
        ValueError: `answers` is empty.

    Examples:
        >>> token_f1("Paris, France", ["Paris"])  # precision 1/2, recall 1
        0.6666666666666666
        >>> token_f1("", ["Paris"])
        0.0
    """
    _check_aliases(answers)
    words = Counter(normalize_answer(prediction).split())
    return max(_multiset_f1(words, Counter(normalize_answer(answer).split())) for answer in answers)


def rouge_l(prediction: str, answers: Sequence[str]) -> float:
    """Return the best F1 between prediction and answer on their longest common subsequence of words (Lin, 2004).

    By the package `rouge-score`, without stemming: words are runs of ASCII letters and digits, in lower case, so that
    text in another script has none and scores 0. KILT's own script uses another package, which cuts words otherwise.

    Args:
        prediction: The answer to judge.
        answers: True answers, at least one.

    Returns:
        A number in [0, 1].

    Raises:
        TypeError: `answers` is one string in place of a list.
        ValueError: `answers` is empty.

    Examples:
        >>> rouge_l("the cat sat", ["the dog sat down"])  # "the ... sat": precision 2/3, recall 2/4
        0.57...
    """
    from rouge_score.rouge_scorer import RougeScorer  # it imports nltk, which takes a second

    _check_aliases(answers)
    scores = RougeScorer(["rougeL"], use_stemmer=False).score_multi(answers, prediction)
    return float(scores["rougeL"].fmeasure)


def has_answer(text: str, answers: Sequence[str]) -> bool:
    """Return whether a normalised alias stands in the normalised text as whole words.

    Of a passage: what open-domain question answering calls a positive one where none is annotated (Karpukhin et al.,
    2020). Of a predicted answer: the accuracy that is measured where answers are longer than the true ones.

    Args:
        text: A passage, or a predicted answer.
        answers: Aliases of the true answer, at least one. One that normalises to nothing is found nowhere.

    Raises:
        TypeError: `answers` is one string in place of a list.
        ValueError: `answers` is empty.

    Examples:
        >>> has_answer("She was born in the Hague, in 1912.", ["The Hague"])
        True
        >>> has_answer("Parisian cafés", ["Paris"])
        False
    """
    _check_aliases(answers)
    words = f" {normalize_answer(text)} "
    return any(f" {alias} " in words for alias in map(normalize_answer, answers) if alias)


def _multiset_f1(predicted: Counter[str], expected: Counter[str]) -> float:
    total = predicted.total() + expected.total()
    return 2 * (predicted & expected).total() / total if total else 0.0


def _check_aliases(answers: Sequence[str]) -> None:
    # A string is a sequence of strings too: it would pass for a list of one-letter aliases.
    if isinstance(answers, str):
        raise TypeError(f"answers is the string {answers!r}: pass a list of aliases, [{answers!r}]")
    if not answers:
        raise ValueError("answers is empty: give at least one alias of the true answer")
