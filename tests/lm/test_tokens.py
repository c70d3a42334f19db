"""Tokens by lines: those of the whole text, and no line tokenized twice."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from dro_trl.lm import encoding, prompts
from dro_trl.lm import tokens as module
from dro_trl.lm.tokens import LineTokens, line_tokens
from tests.helpers.tiny_models import tiny_questions, tiny_tokenizer

SPLIT = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LINES = [f"a line of {i} words." for i in range(50)] + ["\n\n  another"]


def trained(pre_tokenizer=None, extra=(), **options):
    """Return a tokenizer of 400 tokens that sees of a text what `pre_tokenizer` leaves together."""
    tokenizer = Tokenizer(models.BPE())
    if pre_tokenizer is not None:
        tokenizer.pre_tokenizer = pre_tokenizer
    trainer = trainers.BpeTrainer(vocab_size=400, show_progress=False, **options)
    tokenizer.train_from_iterator(["\n".join(LINES), *extra], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def byte_level(extra=()):
    """Return a tokenizer that cuts texts as those of Qwen and Llama 3 do."""
    words = pre_tokenizers.Split(Regex(SPLIT), "isolated")
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return trained(pre_tokenizers.Sequence([words, bytes_]), extra, initial_alphabet=alphabet)


def whole(tokenizer, texts):
    return tokenizer(texts, add_special_tokens=False)["input_ids"]


@given(st.lists(st.text("aPassge: .?)\n1é", max_size=40), max_size=4))
def test_tokens_are_those_of_the_whole_text(texts):
    tokenizer = tiny_tokenizer()
    assert line_tokens(tokenizer).by_line
    assert encoding.encode_all(tokenizer, texts) == [whole(tokenizer, [text])[0] if text else [] for text in texts]


@pytest.mark.parametrize(
    "tokenizer",
    [trained(), trained(pre_tokenizers.Metaspace())],
    ids=["with tokens over the end of a line", "that begins a text with a space"],
)
def test_a_tokenizer_whose_tokens_depend_on_other_lines_reads_whole_texts(tokenizer):
    text = "a line of 3 words.\na line of 4 words."
    assert not line_tokens(tokenizer).by_line
    assert encoding.encode(tokenizer, text) == whole(tokenizer, [text])[0]


class Counting:
    """A tokenizer that counts the characters it is given."""

    def __init__(self, tokenizer):
        self.tokenizer, self.characters = tokenizer, 0

    def __call__(self, texts, **kwargs):
        self.characters += sum(map(len, texts))
        return self.tokenizer(texts, **kwargs)

    def __len__(self):
        return len(self.tokenizer)

    def __getattr__(self, name):
        return getattr(self.tokenizer, name)


def test_a_passage_is_tokenized_once_for_all_prompts_that_hold_it():
    tokenizer = Counting(tiny_tokenizer())
    line_tokens(tokenizer)
    tokenizer.characters = 0
    row = tiny_questions(5)[0]
    selections = [[0, 1], [1, 0], [4, 0], [0, 1]]
    texts = [prompts.generator_prompt(row["question"], [row["candidates"][i] for i in s]) for s in selections]
    once = {line for text in texts for line in text.splitlines(keepends=True)} | {tokenizer.bos_token}
    texts = [encoding.render(tokenizer, text) for text in texts]
    assert texts[0].startswith(tokenizer.bos_token)
    encoding.encode_all(tokenizer, texts)
    assert tokenizer.characters == sum(map(len, once))
    encoding.encode_all(tokenizer, texts[::-1])
    assert tokenizer.characters == sum(map(len, once))


def test_what_was_seen_first_is_forgotten_first(monkeypatch):
    tokenizer = Counting(tiny_tokenizer())
    tokens = LineTokens(tokenizer)
    line = LINES[10]
    monkeypatch.setattr(module, "MOST_BYTES", 2 * module._size_of(line, tokens.encode(tokenizer, [line])[0]))
    expected = whole(tokenizer.tokenizer, LINES[10:13])
    tokenizer.characters = 0
    assert tokens.encode(tokenizer, LINES[10:13]) == expected
    assert tokens.encode(tokenizer, LINES[11:13]) == expected[1:]
    assert tokenizer.characters == len(LINES[11]) + len(LINES[12])
    assert tokens.encode(tokenizer, LINES[10:11]) == expected[:1]
    assert tokenizer.characters == sum(map(len, LINES[10:13]))


def test_tokens_that_are_added_change_what_is_read_from_then_on():
    tokenizer = byte_level()
    before = encoding.encode(tokenizer, LINES[3])
    tokenizer.add_tokens(["line of"])
    added = tokenizer.convert_tokens_to_ids("line of")
    assert added not in before
    assert added in encoding.encode(tokenizer, LINES[4])
    assert added in encoding.encode(tokenizer, LINES[3])


def test_a_token_that_takes_the_end_of_a_line_is_left_its_text():
    text = "a line.\n<|start|>\nanother"
    for strip in ("lstrip", "rstrip"):
        tokenizer = byte_level()
        tokenizer.add_tokens([AddedToken("<|start|>", special=True, **{strip: True})])
        assert encoding.encode(tokenizer, text) == whole(tokenizer, [text])[0]
        assert not line_tokens(tokenizer).by_line


def test_tokens_of_white_space_alone_may_reach_over_the_end_of_a_line():
    """As in the vocabularies of Qwen and Llama 3, in which two lines end with one token on some systems."""
    tokenizer = byte_level(extra=["a line.\r\n\r\n", "\n\n  a line", "\n\t\n"] * 20)
    assert any("\u010d\u010a" in token for token in tokenizer.get_vocab())
    text = "a line.\r\n\r\n  another line.\n\n a line.\n\t\nanother\n"
    assert line_tokens(tokenizer).by_line
    assert encoding.encode(tokenizer, text) == whole(tokenizer, [text])[0]
