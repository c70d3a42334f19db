"""Greedy answers of the generator."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor, nn
from transformers import StoppingCriteria, StoppingCriteriaList

from dro_trl.lm import encoding, prompts
from dro_trl.lm.endpoint import GeneratorEndpoint
from dro_trl.lm.fitting import position_limit
from dro_trl.lm.prompts import DEFAULT, PromptTexts
from dro_trl.lm.sharding import is_sharded, most_forwards
from dro_trl.lm.tokens import Tokenizer
from dro_trl.lm.turns import answer_stops, turns_of
from dro_trl.types import Passage


class _Until(StoppingCriteria):
    """Stops a row once what it has written says so.

    Args:
        tokenizer: Decodes it, special tokens included.
        prompt_length: Tokens before it.
        is_done: Looks at the text.
    """

    def __init__(self, tokenizer: Tokenizer, prompt_length: int, is_done: Callable[[str], bool]) -> None:
        self._tokenizer = tokenizer
        self._prompt_length = prompt_length
        self._is_done = is_done

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        written = self._tokenizer.batch_decode(input_ids[:, self._prompt_length :])
        return torch.tensor([self._is_done(text) for text in written], device=input_ids.device, dtype=torch.bool)


def _is_line(text: str) -> bool:
    return "\n" in text.lstrip()


def generate_answers(
    model: nn.Module | GeneratorEndpoint,
    tokenizer: Tokenizer,
    questions: Sequence[str],
    passages: Sequence[Sequence[Passage]],
    max_new_tokens: int = 32,
    batch_size: int = 16,
    texts: PromptTexts = DEFAULT,
    max_thinking_tokens: int = 0,
) -> list[str]:
    """Answer each question from its passages by greedy decoding.

    An answer ends with its line, and before any token at which the model or its chat template ends a text.

    Args:
        model: The generator, or the server that it is behind.
        tokenizer: Its tokenizer.
        questions: The questions.
        passages: For each question, the passages in the order in which they are read.
        max_new_tokens: Longest answer, in tokens.
        batch_size: Questions decoded together; batches are of like length, and the result does not depend on it.
        texts: The words of the prompt.
        max_thinking_tokens: Longest thought that the model writes before its answer, in tokens; it is closed there,
            and is no part of the answer. No thought where 0.

    Returns:
        The answers, one line each, in the order of the questions.

    Raises:
        ValueError: If the model is to think, and its chat template has no place for a thought; or if a prompt leaves
            no room for an answer of that length before the last of the positions that a model has learnt.
    """
    said = [prompts.generator_prompt(q, chosen, texts) for q, chosen in zip(questions, passages, strict=True)]
    if isinstance(model, GeneratorEndpoint):
        encoded = encoding.encode_all(tokenizer, [encoding.render(tokenizer, text) for text in said])
        return _read_answers(tokenizer, model.write(tokenizer, encoded, max_new_tokens))
    write = partial(_write, model, tokenizer, questions, batch_size=batch_size)
    if max_thinking_tokens:
        opened = [encoding.render(tokenizer, text, think=True) for text in said]
        closing, mark = turns_of(tokenizer).thought_end or "", turns_of(tokenizer).thought_mark or ""
        thoughts = write(opened, max_thinking_tokens, lambda text: mark in text, keep_special=True)
        rendered = [
            text + encoding.plain(tokenizer, thought.partition(mark)[0].strip()) + closing
            for text, thought in zip(opened, thoughts, strict=True)
        ]
    else:
        rendered = [encoding.render(tokenizer, text) for text in said]
    end = _written_end(tokenizer)
    texts_written = write(rendered, max_new_tokens, lambda text: _is_line(text) or bool(end) and end in text)
    return _read_answers(tokenizer, texts_written)


def _read_answers(tokenizer: Tokenizer, written: Sequence[str]) -> list[str]:
    """Return the answers in what a generator wrote."""
    end = _written_end(tokenizer)
    return [prompts.clean_answer(text.partition(end)[0] if end else text) for text in written]


def _written_end(tokenizer: Tokenizer) -> str:
    """What of an answer's end is left in a decoded text: of a chat template's, all but tokens that are special."""
    turns = turns_of(tokenizer)
    if not turns.chat:
        return ""  # There it is the end of the line.
    ids = tokenizer(turns.end.strip(), add_special_tokens=False)["input_ids"]
    return str(tokenizer.decode(ids, skip_special_tokens=True)).strip()


@torch.no_grad()
def _write(
    model: nn.Module,
    tokenizer: Tokenizer,
    questions: Sequence[str],
    rendered: Sequence[str],
    max_new_tokens: int,
    is_done: Callable[[str], bool],
    batch_size: int,
    keep_special: bool = False,
) -> list[str]:
    """Continue each prompt greedily until the text is done or the model ends it; return what it wrote before that."""
    encoded = encoding.encode_all(tokenizer, rendered)
    limit, is_learnt = position_limit(model)
    longest = max(map(len, encoded), default=0)
    if limit is not None and is_learnt and longest + max_new_tokens > limit:
        number = max(range(len(encoded)), key=lambda i: len(encoded[i]))
        raise ValueError(
            f"question {questions[number]!r}: its prompt has {longest} tokens, with max_new_tokens={max_new_tokens} "
            f"more than the {limit} positions (max_position_embeddings) that the generator has; set "
            "max_passage_tokens, or lower num_selected"
        )
    stops = answer_stops(tokenizer, model)
    order = sorted(range(len(encoded)), key=lambda i: len(encoded[i]))
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    found = [""] * len(encoded)
    with _generating(model):
        # Where the model is sharded, a process that is done answers again for as long as another is not.
        for number in range(most_forwards(model, len(batches))):
            rows = batches[min(number, len(batches) - 1)]
            inputs = _left_padded([encoded[i] for i in rows], tokenizer, next(model.parameters()).device)
            length = inputs["input_ids"].shape[1]
            output = model.generate(  # type: ignore[operator]
                **inputs,
                do_sample=False,
                max_new_tokens=max_new_tokens,
                stopping_criteria=StoppingCriteriaList([_Until(tokenizer, length, is_done)]),
                # What a model's own config may say of sampled texts: the likeliest token is another one with it.
                num_beams=1,
                repetition_penalty=1.0,
                no_repeat_ngram_size=0,
                min_new_tokens=0,
                eos_token_id=sorted(stops) or None,
                pad_token_id=tokenizer.pad_token_id,
                synced_gpus=is_sharded(model),
            )
            written = [list(takewhile(lambda token: token not in stops, ids)) for ids in output[:, length:].tolist()]
            texts = tokenizer.batch_decode(written, skip_special_tokens=not keep_special)
            for i, text in zip(rows, texts, strict=True):
                found[i] = text
    return found


@contextlib.contextmanager
def _generating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode and a quick output layer, both undone afterwards."""
    training = model.training
    hook = model.get_output_embeddings().register_forward_pre_hook(_contiguous)  # type: ignore[operator]
    model.eval()
    try:
        yield
    finally:
        model.train(training)
        hook.remove()


def _contiguous(head: nn.Module, hidden: tuple[Tensor]) -> tuple[Tensor]:
    """Lay out what the output layer reads: on a slice, a frozen layer's matrix product copies its weights per row.

    A slice of one row calls itself contiguous, whatever its strides are, so that it has to be copied.
    """
    return (hidden[0].clone(memory_format=torch.contiguous_format),)


def _left_padded(rows: list[list[int]], tokenizer: Tokenizer, device: torch.device) -> dict[str, Tensor]:
    width = max(map(len, rows))
    input_ids = torch.tensor([[tokenizer.pad_token_id] * (width - len(row)) + row for row in rows], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
    return {"input_ids": input_ids, "attention_mask": mask}
