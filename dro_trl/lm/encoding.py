"""Prompts and answers as token ids, with what a model reads around texts."""

import itertools
from collections.abc import Sequence

from dro_trl.lm.prompts import DEFAULT, PromptTexts
from dro_trl.lm.tokens import Tokenizer, line_tokens
from dro_trl.lm.turns import turns_of


def render(tokenizer: Tokenizer, text: str, lead: str = "", think: bool = False) -> str:
    """Return a prompt as the model reads it, special tokens included; `encode` makes its tokens.

    Special tokens that stand in the text itself are marked, so that they are read as the text that they are.

    Args:
        tokenizer: What it reads around the text is kept with it (`dro_trl.lm.turns`).
        text: What the user says.
        lead: The first words of the reply; on a line of its own where there is no chat template.
        think: Whether the reply begins with a thought.

    Raises:
        ValueError: If it is to begin with a thought, and there is no place for one.
    """
    turns = turns_of(tokenizer)
    said = turns.before + plain(tokenizer, text)
    if think and turns.think is None:
        raise ValueError(
            "max_thinking_tokens is set, and the generator's prompt has no place for a thought: its chat template "
            "knows of none, or none is applied (chat); set it to 0"
        )
    if turns.chat:
        return f"{said}{turns.think if think else turns.between}{turns.space + lead if lead else ''}"
    return "\n".join(part for part in (said, lead) if part)


def text_start(tokenizer: Tokenizer) -> int:
    """Return where, in what `render` returns, the text begins."""
    return len(turns_of(tokenizer).before)


def plain(tokenizer: Tokenizer, text: str) -> str:
    """Mark the special tokens in a text, so that they are encoded as the text that they are."""
    return line_tokens(tokenizer).plain(text)


def encode(tokenizer: Tokenizer, text: str) -> list[int]:
    """Return the token ids of a text that `render` made."""
    return encode_all(tokenizer, [text])[0]


def encode_all(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Return the token ids of each of several texts, or parts of them; lines that were read before are known."""
    return line_tokens(tokenizer).encode(tokenizer, texts)


def encode_with_ends(tokenizer: Tokenizer, text: str, ends: Sequence[int]) -> tuple[list[int], list[int]]:
    """Encode a rendered text with a token boundary at each character index, and find the token that ends there.

    The pieces are encoded apart: many tokenizers would join a colon and the new line after it into one token, and
    what a model predicts after the new line says nothing about the colon.
    """
    pieces = [text[start:end] for start, end in zip([0, *ends], [*ends, len(text)], strict=True)]
    encoded = encode_all(tokenizer, pieces)
    counts = itertools.accumulate(len(ids) for ids in encoded[:-1])
    return [token for ids in encoded for token in ids], [count - 1 for count in counts]


def continuation_ids(tokenizer: Tokenizer, stem: str, text: str) -> list[int]:
    """Return the tokens of `text` where it follows `stem`, as the tokenizer would split them in running text."""
    stem_ids, joint = encode(tokenizer, stem), encode(tokenizer, stem + text)
    return joint[len(stem_ids) :] if joint[: len(stem_ids)] == stem_ids else encode(tokenizer, text)


def question_ids(tokenizer: Tokenizer, question: str, texts: PromptTexts = DEFAULT) -> list[int]:
    """Return the tokens of a question where it follows `question_prompt`."""
    question = plain(tokenizer, question.strip())
    if (turns := turns_of(tokenizer)).chat:
        return continuation_ids(tokenizer, turns.between, f"{turns.space}{question}")
    return continuation_ids(tokenizer, texts.question, f" {question}")


def answer_ids(tokenizer: Tokenizer, answer: str, texts: PromptTexts = DEFAULT) -> list[int]:
    """Return the tokens of an answer and of its end: a new line, or what the chat template ends an answer with."""
    answer, turns = plain(tokenizer, answer.strip()), turns_of(tokenizer)
    if turns.chat:
        return continuation_ids(tokenizer, turns.between, f"{turns.space}{answer}{turns.end}")
    return continuation_ids(tokenizer, texts.answer, f" {answer}{turns.end}")
