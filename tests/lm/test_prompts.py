"""The texts that models read and write, and their tokens."""

import pytest

from dro_trl.lm import encoding, prompts
from dro_trl.types import Passage
from tests.helpers.tiny_models import tiny_tokenizer


def passage(text: str, title: str = "") -> Passage:
    return Passage(id="1", title=title, text=text, score=0.0)


def test_passage_text():
    assert prompts.passage_text(passage("two\n lines", "A title")) == "A title: two lines"
    assert prompts.passage_text(passage("text")) == "text"


def test_generator_prompt_keeps_the_order():
    text = prompts.generator_prompt("Who?", [passage("b"), passage("a", "T")])
    assert text == "Passage: b\nPassage: T: a\nQuestion: Who?\nAnswer:"


def test_scoring_prompt_marks_each_passage():
    text, spans = prompts.scoring_prompt("Who?", [passage("b"), passage("a", "T")])
    assert text.endswith("Question: Who?\nPassage: b\nUseful:\nPassage: T: a\nUseful:")
    assert [text[start:end] for start, end in spans] == ["Passage: b\nUseful:", "Passage: T: a\nUseful:"]


def test_ranking_prompt_names_each_passage():
    text = prompts.ranking_prompt("Who?", [passage("b"), passage("a", "T")], ["1", "2"])
    assert text == "[1] b\n[2] T: a\nQuestion: Who?"
    with pytest.raises(ValueError, match="zip"):
        prompts.ranking_prompt("Who?", [passage("b")], ["1", "2"])


GERMAN = {
    "passage": "Absatz:",
    "question": "Frage:",
    "answer": "Antwort:",
    "useful": "Hilft:",
    "scoring_instruction": "Welche Absätze helfen?",
    "ranking_instruction": "Ordne die Absätze.",
    "generator_instruction": "Antworte kurz.",
}


def test_prompts_of_other_words():
    texts = prompts.prompt_texts(GERMAN)
    two = [passage("b"), passage("a", "T")]
    expected = "Antworte kurz.\nAbsatz: b\nAbsatz: T: a\nFrage: Wer?\nAntwort:"
    assert prompts.generator_prompt("Wer?", two, texts) == expected
    text, spans = prompts.scoring_prompt("Wer?", two, texts)
    assert text == "Welche Absätze helfen?\nFrage: Wer?\nAbsatz: b\nHilft:\nAbsatz: T: a\nHilft:"
    assert [text[start:end] for start, end in spans] == ["Absatz: b\nHilft:", "Absatz: T: a\nHilft:"]
    text, spans = prompts.scoring_prompt("Wer?", two, prompts.prompt_texts({"scoring_instruction": ""}))
    assert text.startswith("Question: Wer?\nPassage: b\n")
    assert text[slice(*spans[0])] == "Passage: b\nUseful:"
    assert prompts.question_prompt(two[0], texts) == "Absatz: b\nFrage:"
    assert prompts.ranking_prompt("Wer?", two, "12", texts) == "Ordne die Absätze.\n[1] b\n[2] T: a\nFrage: Wer?"
    assert prompts.prompt_texts(None) == prompts.DEFAULT


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"answers": "A:"}, r"prompt_texts: unknown text 'answers'; did you mean 'answer'\?"),
        ({"x": "A:"}, "unknown text 'x'; there are passage, question, answer"),
        ({"answer": "A: "}, "answer='A: ' must be a text without white space at its ends"),
        ({"answer": 3}, "answer=3 must be a text"),
        ({"useful": ""}, "useful='' must be one line"),
        ({"question": "Q:\nQ:"}, r"question='Q:\\nQ:' must be one line"),
    ],
)
def test_texts_that_are_none(given, message):
    with pytest.raises(ValueError, match=message):
        prompts.prompt_texts(given)


def test_render_without_a_chat_template():
    """The first special token once, and the lead on a line of its own."""
    tokenizer = tiny_tokenizer()
    assert encoding.render(tokenizer, "Hello", lead="Reply:") == "<s>Hello\nReply:"
    assert encoding.render(tokenizer, "Hello") == "<s>Hello"
    assert encoding.encode(tokenizer, encoding.render(tokenizer, "Hello")).count(tokenizer.bos_token_id) == 1


def test_render_with_a_chat_template():
    rendered = encoding.render(tiny_tokenizer(chat=True), "Hello", lead="Reply:")
    assert rendered == "<|user|>\nHello</s>\n<|assistant|>\nReply:"


@pytest.mark.parametrize("split_digits", [True, False])
@pytest.mark.parametrize("chat", [True, False])
def test_encoding_with_ends_loses_nothing(split_digits, chat):
    """The tokens decode to the text, whatever the boundaries, those at its very end and beginning included."""
    tokenizer = tiny_tokenizer(split_digits, chat)
    text = "Useful: 日本 🎈 12 naïve\nUseful:"
    ends = [1, 7, 10, len(text)]
    ids, positions = encoding.encode_with_ends(tokenizer, text, ends)
    assert tokenizer.decode(ids) == text
    assert [tokenizer.decode(ids[: position + 1]) for position in positions] == [text[:end] for end in ends]


@pytest.mark.parametrize("name", ["Ada Oslo", "12", "the 12th (of May)", "Ünï 🎈"])
def test_answer_ids_are_the_running_text(name):
    """ " Ada Oslo\\n" after "Answer:", split as in one piece, and the end of the turn for a chat model."""
    for split_digits in (True, False):
        plain = tiny_tokenizer(split_digits)
        ids = encoding.answer_ids(plain, name)
        prompt = encoding.encode(plain, prompts.generator_prompt("Who?", [passage("a")]))
        assert plain.decode(prompt + ids).endswith(f"Answer: {name}\n")
        assert plain.decode(ids) == f" {name}\n"
    chat = tiny_tokenizer(chat=True)
    assert chat.decode(encoding.answer_ids(chat, name)) == f"{name}</s>"
    assert encoding.answer_ids(chat, name)[-1] == chat.eos_token_id


def test_continuation_ids_split_as_running_text():
    """ " yes" is one token after "Useful:"; "12" is one or two."""
    split, whole = tiny_tokenizer(), tiny_tokenizer(split_digits=False)
    assert split.convert_ids_to_tokens(encoding.continuation_ids(split, "Useful:", " yes")) == ["Ġyes"]
    assert split.convert_ids_to_tokens(encoding.continuation_ids(split, "a [", "12]")) == ["1", "2", "]"]
    assert whole.convert_ids_to_tokens(encoding.continuation_ids(whole, "a [", "12]")) == ["12", "]"]
    # Where the text would melt into the stem, it is encoded by itself: "1" + "2" is the token "12".
    assert whole.convert_ids_to_tokens(encoding.continuation_ids(whole, "1", "2")) == ["2"]


@pytest.mark.parametrize(
    ("text", "answer"), [(" Ada\nQuestion:", "Ada"), ("\n\n Ada \n", "Ada"), ("", ""), ("\n", ""), ("A B", "A B")]
)
def test_clean_answer(text, answer):
    assert prompts.clean_answer(text) == answer


def test_selections_as_text():
    assert prompts.format_selection([11, 0]) == "[12] > [1]"
    assert prompts.parse_selection("I choose [12] > [1], not 3", 12) == [11, 0]
    with pytest.raises(ValueError, match="no identifier such as"):
        prompts.parse_selection("12 > 1", 12)
    for text in ("[0] > [1]", "[1] > [13]"):
        with pytest.raises(ValueError, match=r"names \[(0|13)\], but there are 12 candidates"):
            prompts.parse_selection(text, 12)
