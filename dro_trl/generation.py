"""Greedy answers of the generator."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import StoppingCriteria, StoppingCriteriaList

from dro_trl import prompts
from dro_trl.lockstep import is_sharded, most_forwards
from dro_trl.prompts import DEFAULT, PromptTexts, Tokenizer
from dro_trl.types import Passage


class _EndOfLine(StoppingCriteria):
    """Stops a row once it has written something and then a new line."""

    def __init__(self, tokenizer: Tokenizer, prompt_length: int) -> None:
        self._tokenizer = tokenizer
        self._prompt_length = prompt_length

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        written = self._tokenizer.batch_decode(input_ids[:, self._prompt_length :])
        done = ["\n" in text.lstrip() for text in written]
        return torch.tensor(done, device=input_ids.device, dtype=torch.bool)


@torch.no_grad()
def generate_answers(
    model: nn.Module,
    tokenizer: Tokenizer,
    questions: Sequence[str],
    passages: Sequence[Sequence[Passage]],
    max_new_tokens: int = 32,
    batch_size: int = 16,
    texts: PromptTexts = DEFAULT,
) -> list[str]:
    """Answer each question from its passages by greedy decoding.

    Args:
        model: The generator.
        tokenizer: Its tokenizer.
        questions: The questions.
        passages: For each question, the passages in the order in which they are read.
        max_new_tokens: Longest answer, in tokens.
        batch_size: Questions decoded together; batches are of like length, and the result does not depend on it.
        texts: The words of the prompt.

    Returns:
        The answers, one line each, in the order of the questions.
    """
    rendered = [
        prompts.render(tokenizer, prompts.generator_prompt(question, chosen, texts))
        for question, chosen in zip(questions, passages, strict=True)
    ]
    encoded = prompts.encode_all(tokenizer, rendered)
    order = sorted(range(len(encoded)), key=lambda i: len(encoded[i]))
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    answers = [""] * len(encoded)
    with _generating(model):
        # Where the model is sharded, a process that is done answers again for as long as another is not.
        for number in range(most_forwards(model, len(batches))):
            rows = batches[min(number, len(batches) - 1)]
            inputs = _left_padded([encoded[i] for i in rows], tokenizer, next(model.parameters()).device)
            stop = StoppingCriteriaList([_EndOfLine(tokenizer, inputs["input_ids"].shape[1])])
            output = model.generate(  # type: ignore[operator]
                **inputs,
                do_sample=False,
                max_new_tokens=max_new_tokens,
                stopping_criteria=stop,
                pad_token_id=tokenizer.pad_token_id,
                synced_gpus=is_sharded(model),
            )
            written = tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
            for i, text in zip(rows, written, strict=True):
                answers[i] = prompts.clean_answer(text)
    return answers


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
    """Lay out what the output layer reads: on a slice, a frozen layer's matrix product copies its weights per row."""
    return (hidden[0].contiguous(),)


def answer_selections(
    model: nn.Module, tokenizer: Tokenizer, columns: dict[str, Any], texts: PromptTexts = DEFAULT
) -> list[str]:
    """Answer from each selection, identical ones once.

    Args:
        model: The generator.
        tokenizer: Its tokenizer.
        columns: `question`, `candidates` and `selections`, one entry per selection.
        texts: The words of the prompt.
    """
    read = [
        [passages[index] for index in selection]
        for selection, passages in zip(columns["selections"], columns["candidates"], strict=True)
    ]
    keys = [(q, *(p["id"] for p in passages)) for q, passages in zip(columns["question"], read, strict=True)]
    distinct = dict(zip(keys, read, strict=True))
    answers = generate_answers(model, tokenizer, [key[0] for key in distinct], list(distinct.values()), texts=texts)
    by_key = dict(zip(distinct, answers, strict=True))
    return [by_key[key] for key in keys]


def _left_padded(rows: list[list[int]], tokenizer: Tokenizer, device: torch.device) -> dict[str, Tensor]:
    width = max(map(len, rows))
    input_ids = torch.tensor([[tokenizer.pad_token_id] * (width - len(row)) + row for row in rows], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
    return {"input_ids": input_ids, "attention_mask": mask}
