"""Whether a text holds an answer: DPR's rule held against Pyserini's evaluation, and the rule that goes further."""

import json
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pyserini.eval.evaluate_dpr_retrieval import SimpleTokenizer, has_answers

from dro_trl.metrics import has_answer, mentions_answer

PYSERINI = SimpleTokenizer()


@pytest.mark.parametrize(
    ("text", "answer", "dpr", "extended"),
    [
        ("Einstein's theory", "Einstein", True, True),
        ("Einstein\u2019s theory", "Einstein", True, True),
        ("The Franco-Prussian war", "Prussian", True, True),
        ("He reigned 1914-1918", "1918", True, True),
        ("He reigned 1914\u20131918", "1918", True, True),
        ("recorded “Imagine” in 1971", "Imagine", True, True),
        ("yes\u2014Oslo\u2014it is", "Oslo", True, True),
        ("AC/DC", "DC", True, True),
        ("Sa\u0303o Paulo in Brazil", "S\u00e3o Paulo", True, True),
        ("Oslo is the capital", "oslo", True, True),
        ("the U.S.A. won", "U.S.A.", True, True),
        ("a rock-and-roll band", "rock-and-roll", True, True),
        ("ΟΔΥΣΣΕΥΣ", "ΟΔΥΣΣΕΥΣ", True, True),  # in lower case a last sigma is another letter
        ("ΣΑΣ-Σ", "ΣΑΣ", True, True),
        # DPR's rule finds none of these.
        ("O\u2019Brien wrote it", "O'Brien", False, True),
        ("Rock \u2019n\u2019 Roll", "Rock 'n' Roll", False, True),
        ("Hawai\u02bbi", "Hawai'i", False, True),
        ("from 1914\u20131918", "1914-1918", False, True),
        ("Nothing ‘really’ matters…", '"Nothing"', False, False),
        ("It has 1,000 seats", "1000", False, True),
        ("It has 12,345,678 seats", "12345678", False, True),
        ("It has 1\u202f000 seats", "1,000", False, True),
        ("It has 12,34,567 seats", "1234567", False, True),
        ("STRASSE", "Straße", False, True),
        ("１９６９年", "1969", False, True),
        ("عام ١٩٦٩", "1969", False, True),
        ("San\u00adFran", "SanFran", False, True),
        ("巴黎是法国的首都", "法国", False, True),
        ("東京はトヨタの町", "トヨタ", False, True),
        ("กรุงเทพเป็นเมืองหลวงของประเทศไทย", "ประเทศไทย", False, True),
        # It finds these, and should not.
        ("It cost 15.5 million", "5", True, False),
        ("It cost 15.5 million", "15", True, False),
        # Nobody should.
        ("The Osloites", "Oslo", False, False),
        ("It cost 15.5 million", "5.5", False, False),
        ("It has 1,000 seats", "1", True, False),
        ("1,2,3", "123", False, False),
        ("in 1912,191 others", "1912191", False, False),
        ("ジャパン", "パン", False, False),
        ("กาแฟ", "แฟน", False, False),
        ("on 12.05.1945", "1945", True, True),
        ("version 3.11.15", "11", True, True),
        ("Beatles", "The Beatles", False, False),
        ("", "a", False, False),
    ],
)
def test_worked_by_hand(text, answer, dpr, extended):
    assert has_answer(text, [answer]) is dpr
    assert mentions_answer(text, [answer]) is extended
    assert has_answer(text, ["no such thing", answer]) is dpr
    assert mentions_answer(text, ["no such thing", answer]) is extended


@pytest.mark.parametrize("rule", [has_answer, mentions_answer])
@pytest.mark.parametrize("answer", ["", " ", "\u200b", "\t\n"])
def test_an_answer_without_tokens_is_found_nowhere(rule, answer):
    assert not rule("any text", [answer])
    assert not rule("", [answer])
    assert rule("any text", [answer, "text"])


pieces = st.text(alphabet="aAbée\u0301Σσς İß'\u2019-–.,5\u0e01\u0e31中パ\u00a0\u200b\u00ad_", max_size=14)


@given(text=pieces | st.text(max_size=30), answers=st.lists(pieces | st.text(max_size=3), min_size=1, max_size=2))
@example("ΑΣ'Α", ["ΑΣ"])
def test_the_rule_is_pyserinis_on_any_text(text, answers):
    answers = [answer for answer in answers if PYSERINI.tokenize(answer).words()]
    if answers:
        assert has_answer(text, answers) is has_answers(text, answers, PYSERINI)


@given(before=pieces, answer=st.text(min_size=1, max_size=8), after=pieces)
def test_a_text_between_spaces_is_found(before, answer, after):
    text = f"{before} {answer} {after}"
    assert has_answer(text, [answer]) is bool(PYSERINI.tokenize(answer).words())
    assert mentions_answer(answer, [answer]) >= has_answer(answer, [answer])


@pytest.mark.realdata
def test_agrees_with_pyserini_on_natural_questions(shared_data):
    """All 800 questions of the sample with their five passages: 4,000 of 4,000, in a fraction of the time."""
    rows = [json.loads(line) for line in (shared_data / "nq_train_800_top5.jsonl").read_text("utf-8").splitlines()]
    pairs = [
        (passage[key], row["answers"]) for row in rows for passage in row["passages"] for key in ("text", "title")
    ]
    start = time.perf_counter()
    ours = [has_answer(text, answers) for text, answers in pairs]
    seconds = time.perf_counter() - start
    theirs = [has_answers(text, answers, PYSERINI) for text, answers in pairs]
    assert len(pairs) == 8_000
    assert sum(ours[::2]) == 1_301
    assert ours == theirs
    assert seconds < (time.perf_counter() - start - seconds) / 2
    # Two answers are "5", and stand in a decimal number.
    assert sum(mentions_answer(text, answers) for text, answers in pairs[::2]) == 1_299


@pytest.mark.realdata
def test_agrees_with_pyserini_on_the_answers_of_nq_open(shared_data):
    """Each development question's answers against ten passages that lie near each other in the pool."""
    questions = [json.loads(line) for line in (shared_data / "nq_open_dev.jsonl").read_text("utf-8").splitlines()]
    with (shared_data / "wiki_pool_corpus.jsonl").open(encoding="utf-8") as lines:
        texts = [json.loads(line)["text"] for line in lines]
    pairs = [
        (texts[(7 * number + near) % len(texts)], row["answer"])
        for number, row in enumerate(questions)
        for near in range(10)
    ]
    assert len(pairs) == 36_100
    assert [has_answer(*pair) for pair in pairs] == [has_answers(*pair, PYSERINI) for pair in pairs]
