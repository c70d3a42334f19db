"""Tokens by lines: those of the whole text, and no line tokenized twice."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from dro_trl import line_tokens as module
from dro_trl import prompts
from dro_trl.line_tokens import LineTokens, line_tokens
from tests.tiny_models import tiny_questions, tiny_tokenizer

LINES = [f"a line of {i} words." for i in range(50)] + ["\n\n  another"]


def trained(pre_tokenizer=None):
    """Return a tokenizer of 300 tokens that sees of a text what `pre_tokenizer` leaves together."""
    tokenizer = Tokenizer(models.BPE())
    if pre_tokenizer is not None:
        tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.train_from_iterator(["\n".join(LINES)], trainers.BpeTrainer(vocab_size=300, show_progress=False))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def whole(tokenizer, texts):
    return tokenizer(texts, add_special_tokens=False)["input_ids"]


@given(st.lists(st.text("aPassge: .?)\n1é", max_size=40), max_size=4))
def test_tokens_are_those_of_the_whole_text(texts):
    tokenizer = tiny_tokenizer()
    assert line_tokens(tokenizer).by_line
    assert prompts.encode_all(tokenizer, texts) == [whole(tokenizer, [text])[0] if text else [] for text in texts]


@pytest.mark.parametrize(
    "tokenizer",
    [trained(), trained(pre_tokenizers.Metaspace())],
    ids=["with tokens over the end of a line", "that begins a text with a space"],
)
def test_a_tokenizer_whose_tokens_depend_on_other_lines_reads_whole_texts(tokenizer):
    text = "a line of 3 words.\na line of 4 words."
    assert not line_tokens(tokenizer).by_line
    assert prompts.encode(tokenizer, text) == whole(tokenizer, [text])[0]


class Counting:
    """A tokenizer that counts the characters it is given."""

    def __init__(self, tokenizer):
        self.tokenizer, self.characters = tokenizer, 0

    def __call__(self, texts, **kwargs):
        self.characters += sum(map(len, texts))
        return self.tokenizer(texts, **kwargs)

    def __len__(self):
        return len(self.tokenizer)

    def get_vocab(self):
        return self.tokenizer.get_vocab()


def test_a_passage_is_tokenized_once_for_all_prompts_that_hold_it():
    tokenizer = Counting(tiny_tokenizer())
    line_tokens(tokenizer)
    tokenizer.characters = 0
    row = tiny_questions(5)[0]
    selections = [[0, 1], [1, 0], [4, 0], [0, 1]]
    texts = [prompts.generator_prompt(row["question"], [row["candidates"][i] for i in s]) for s in selections]
    prompts.encode_all(tokenizer, texts)
    once = {line for text in texts for line in text.splitlines(keepends=True)}
    assert tokenizer.characters == sum(map(len, once))
    prompts.encode_all(tokenizer, texts[::-1])
    assert tokenizer.characters == sum(map(len, once))


def test_what_was_seen_first_is_forgotten_first(monkeypatch):
    tokenizer = Counting(tiny_tokenizer())
    tokens = LineTokens(tokenizer)
    monkeypatch.setattr(module, "MOST_TOKENS", 2 * len(tokens.encode(tokenizer, [LINES[10]])[0]))
    expected = whole(tokenizer.tokenizer, LINES[10:13])
    tokenizer.characters = 0
    assert tokens.encode(tokenizer, LINES[10:13]) == expected
    assert tokens.encode(tokenizer, LINES[11:13]) == expected[1:]
    assert tokenizer.characters == len(LINES[11]) + len(LINES[12])
    assert tokens.encode(tokenizer, LINES[10:11]) == expected[:1]
    assert tokenizer.characters == sum(map(len, LINES[10:13]))


def test_tokens_that_are_added_change_what_is_known():
    tokenizer = trained(pre_tokenizers.ByteLevel(add_prefix_space=False))
    before = prompts.encode(tokenizer, LINES[3])
    tokenizer.add_tokens(["line of"])
    added = tokenizer.convert_tokens_to_ids("line of")
    assert added not in before
    assert added in prompts.encode(tokenizer, LINES[3])
