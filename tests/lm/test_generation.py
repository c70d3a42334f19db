"""Greedy answers: against a plain greedy loop, and of a model that writes a given text."""

import pytest
import torch

from dro_trl.lm import encoding, prompts
from dro_trl.lm.generation import _contiguous, generate_answers
from tests.helpers.tiny_models import record_forwards, tiny_model, tiny_questions, tiny_tokenizer

ROWS = tiny_questions(1, 3, 2, 4, 1, 2)
QUESTIONS = [row["question"] for row in ROWS]
PASSAGES = [row["candidates"] for row in ROWS]
"""Prompts of different lengths, not in the order of their lengths."""


def answer(model, tokenizer, **kwargs) -> list[str]:
    return generate_answers(model, tokenizer, QUESTIONS, PASSAGES, **kwargs)


@torch.no_grad()
def naive_answer(model, tokenizer, question: str, passages, max_new_tokens: int) -> str:
    """The likeliest token after each whole text, one after the other, without cache or padding."""
    text = encoding.render(tokenizer, prompts.generator_prompt(question, passages))
    ids = encoding.encode(tokenizer, text)
    start = len(ids)
    while len(ids) < start + max_new_tokens:
        ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] == tokenizer.eos_token_id:
            break
    return prompts.clean_answer(tokenizer.decode(ids[start:], skip_special_tokens=True))


@pytest.mark.parametrize(("kind", "chat"), [("llama", False), ("gemma3", True)])
def test_answers_do_not_depend_on_the_batch(kind, chat):
    """Equal to the plain loop for each question, in the order of the questions, whatever is decoded together."""
    tokenizer = tiny_tokenizer(chat=chat)
    model = tiny_model(kind, tokenizer, seed=5, tie_word_embeddings=False)  # Tied, it repeats its last token.
    expected = [naive_answer(model, tokenizer, q, p, 6) for q, p in zip(QUESTIONS, PASSAGES, strict=True)]
    assert len(set(expected)) > 3, "equal answers would not show a wrong order"
    for batch_size in (1, 2, 16):
        assert answer(model, tokenizer, max_new_tokens=6, batch_size=batch_size) == expected


def writing(tokenizer, pieces: list[str]):
    """A model that writes these tokens after "Answer:", each determined by the one before it."""
    ids = [tokenizer.convert_tokens_to_ids(piece) for piece in (":", *pieces)]
    assert len(set(ids)) == len(ids)
    assert tokenizer.unk_token_id not in ids
    following = dict(zip(ids, ids[1:], strict=False))
    model = tiny_model("llama", tokenizer)

    def write(module, args, kwargs, output):
        last = kwargs["input_ids"][:, -1].tolist()
        output.logits = torch.zeros_like(output.logits)
        for b, token in enumerate(last):
            output.logits[b, -1, following.get(token, ids[-1])] = 1.0
        return output

    model.register_forward_hook(write, with_kwargs=True)
    return model


def test_stops_at_the_end_of_the_line():
    """ " Oslo\\nW..." ends with the new line: one pass for each of " Oslo" and "\\n", none for what follows."""
    tokenizer = tiny_tokenizer()
    model = writing(tokenizer, ["ĠOslo", "Ċ", "W", "h", "o"])
    shapes = record_forwards(model)
    assert answer(model, tokenizer, max_new_tokens=20) == ["Oslo"] * 6
    assert len(shapes) == 2


def test_new_lines_before_the_answer_are_skipped():
    tokenizer = tiny_tokenizer()
    model = writing(tokenizer, ["Ċ", "Ġ", "A", "d", "a", "ĠOslo"])
    assert answer(model, tokenizer, max_new_tokens=6) == ["Ada Oslo"] * 6


def test_stops_at_the_end_of_the_turn():
    """The end-of-text token stops a row and is not part of its answer."""
    tokenizer = tiny_tokenizer()
    model = writing(tokenizer, ["ĠOslo", "</s>", "W", "h", "o"])
    shapes = record_forwards(model)
    assert answer(model, tokenizer, max_new_tokens=20) == ["Oslo"] * 6
    assert len(shapes) == 2


def test_longest_answer():
    tokenizer = tiny_tokenizer()
    model = writing(tokenizer, ["ĠOslo", "W", "h", "o"])
    assert answer(model, tokenizer, max_new_tokens=3) == ["OsloWh"] * 6


def test_mode_and_gradients_stay_as_they_were():
    tokenizer = tiny_tokenizer()
    model = tiny_model("llama", tokenizer)
    for training in (True, False):
        model.train(training)
        answer(model, tokenizer, max_new_tokens=1)
        assert model.training is training
    assert torch.is_grad_enabled()


def test_no_questions():
    tokenizer = tiny_tokenizer()
    assert generate_answers(tiny_model("llama", tokenizer), tokenizer, [], []) == []


def test_questions_without_passages_are_an_error():
    tokenizer = tiny_tokenizer()
    with pytest.raises(ValueError, match="zip"):
        generate_answers(tiny_model("llama", tokenizer), tokenizer, QUESTIONS, PASSAGES[:1])


def test_the_output_layer_reads_a_single_row_laid_out_anew():
    """The last position of one text calls itself contiguous, and its product would copy the whole layer."""
    last = torch.zeros(1, 57, 8)[:, -1:]
    assert last.is_contiguous()
    assert last.stride()[0] == 57 * 8
    assert _contiguous(torch.nn.Identity(), (last,))[0].stride() == (8, 8, 1)
