"""KILT's EM and token F1, ROUGE-L of longer answers, and whether a text holds an answer: pure functions on strings."""

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache

import regex  # unlike `re` it knows Unicode's classes and scripts

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")

_DPR_TOKENS = regex.compile(r"[\p{L}\p{N}\p{M}]+|[^\p{Z}\p{C}]")

_SIGNS = {
    **{code: unicodedata.normalize("NFKC", chr(code)) for code in range(0xFF01, 0xFFEF)},  # full and half width
    **dict.fromkeys(map(ord, "‘’‛ʻʼ′`´‹›"), "'"),
    **dict.fromkeys(map(ord, "“”„‟″«»"), '"'),
    **dict.fromkeys(map(ord, "‐‑‒–—―−"), "-"),
    ord("…"): "...",
}
_DIGIT = regex.compile(r"\p{Nd}")
_FORMATTING = regex.compile("[^\\P{Cf}\u200b]")  # soft hyphens and the like, but not the space of no width
_GROUPING = regex.compile(  # 1,000 or 12,34,567, with a comma, an apostrophe or a space that does not break
    "[,'\u00a0\u2009\u202f](?<=(?<![\\d.])\\d{1,3}.)(?=(?:\\d\\d,)*\\d{3}(?!\\d))"
)
_UNSPACED = r"\p{Han}\p{Hiragana}\p{Bopomofo}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
_ALIKE_TOKENS = regex.compile(
    rf"(?V1)(?<![\d.])\d+\.\d+(?!\.?\d)"
    rf"|[[{_UNSPACED}]&&[\p{{L}}\p{{N}}]]\p{{M}}*"
    rf"|[\p{{Katakana}}ー][\p{{Katakana}}ー\p{{M}}]*"
    rf"|[[\p{{L}}\p{{N}}\p{{M}}]--[{_UNSPACED}\p{{Katakana}}ー]]+"
    r"|[^\p{Z}\p{C}]"
)


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
    """Return whether an alias stands in the text by the rule of DPR (Karpukhin et al., 2020), as Pyserini has it too.

    Both are decomposed (NFD), cut into tokens (runs of letters, digits and marks, or any other single sign) and put in
    lower case; the alias's tokens have to stand one after the other among the text's. `mentions_answer` goes further.

    Args:
        text: A passage, or a predicted answer.
        answers: Aliases of the true answer, at least one. One without tokens is found nowhere (by DPR's code,
            everywhere).

    Raises:
        TypeError: `answers` is one string in place of a list.
        ValueError: `answers` is empty.

    Examples:
        >>> has_answer("Einstein's theory, 1905-1915", ["Einstein"]), has_answer("1905-1915", ["1915"])
        (True, True)
        >>> has_answer("Parisian cafés", ["Paris"])
        False
    """
    _check_aliases(answers)
    # Whole tokens can only be where their letters are. A sigma is another letter at the end of a word.
    letters = unicodedata.normalize("NFD", text).lower().replace("ς", "σ")
    wanted = [tokens for tokens, longest in map(_dpr_alias, answers) if longest and longest in letters]
    if not wanted:
        return False
    there = _dpr_tokens(text)
    return any(tokens in there for tokens in wanted)


def mentions_answer(text: str, answers: Sequence[str]) -> bool:
    """Return whether an alias stands in the text, however quotes, dashes, numbers and scripts are written.

    As `has_answer`, and besides: curly quotes and apostrophes are straight ones, all dashes are hyphens, full width is
    half; letters are alike in either case (ß and SS); digits of any script are 0 to 9, 1,000 is 1000, and 15.5 is one
    token, in which 5.5 does not stand. Where words are written without spaces (Chinese, Japanese, Thai, Lao, Khmer,
    Burmese) each letter is a token, and a run of katakana is one.

    Args:
        text: A passage, or a predicted answer.
        answers: Aliases of the true answer, at least one. One without tokens is found nowhere.

    Raises:
        TypeError: `answers` is one string in place of a list.
        ValueError: `answers` is empty.

    Examples:
        >>> mentions_answer("It has 1,000 seats.", ["1000"]), has_answer("It has 1,000 seats.", ["1000"])
        (True, False)
        >>> mentions_answer("巴黎是法国的首都", ["法国"])
        True
    """
    _check_aliases(answers)
    letters = _written_alike(text)
    wanted = [tokens for tokens, longest in map(_alias_written_alike, answers) if longest and longest in letters]
    if not wanted:
        return False
    there = _joined(_ALIKE_TOKENS.findall(letters))
    return any(tokens in there for tokens in wanted)


def _joined(tokens: list[str]) -> str:
    """Tokens with a space around each, which is in none of them: a sequence of them is a part of this string."""
    return f" {' '.join(tokens)} "


def _dpr_tokens(text: str) -> str:
    return _joined(_DPR_TOKENS.findall(unicodedata.normalize("NFD", text))).lower()


@lru_cache(maxsize=16_384)
def _dpr_alias(alias: str) -> tuple[str, str]:
    tokens = _dpr_tokens(alias)
    return tokens, max(tokens.replace("ς", "σ").split(" "), key=len)


def _written_alike(text: str) -> str:
    if text.isascii():
        text = text.lower()
    else:
        text = unicodedata.normalize("NFD", text.translate(_SIGNS).casefold())
        text = _FORMATTING.sub("", _DIGIT.sub(lambda match: str(unicodedata.decimal(match[0])), text))
    return str(_GROUPING.sub("", text))


@lru_cache(maxsize=16_384)
def _alias_written_alike(alias: str) -> tuple[str, str]:
    tokens = _ALIKE_TOKENS.findall(_written_alike(alias))
    return _joined(tokens), max(tokens, key=len, default="")


def _multiset_f1(predicted: Counter[str], expected: Counter[str]) -> float:
    total = predicted.total() + expected.total()
    return 2 * (predicted & expected).total() / total if total else 0.0


def _check_aliases(answers: Sequence[str]) -> None:
    # A string is a sequence of strings too: it would pass for a list of one-letter aliases.
    if isinstance(answers, str):
        raise TypeError(f"answers is the string {answers!r}: pass a list of aliases, [{answers!r}]")
    if not answers:
        raise ValueError("answers is empty: give at least one alias of the true answer")


def recall(gold_ids: Collection[str], ids: Iterable[str]) -> float:
    """Return the share of the gold passages that are among some.

    Args:
        gold_ids: At least one; one that is named twice counts once.
        ids: Of the passages that were found or selected.

    Example:
        >>> recall(["a", "b"], ["c", "a"])
        0.5
    """
    gold = set(gold_ids)
    return len(gold.intersection(ids)) / len(gold)
