"""How many tokens the two models read for a question: measured on the training data, or from stated lengths."""

import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from dro_trl.data.load import load_rag_dataset
from dro_trl.lm import encoding, prompts
from dro_trl.lm.attention import Blocks, blocks_of
from dro_trl.models.loading import Start
from dro_trl.models.reading import whole_name
from dro_trl.policies.base import StatedReading, load_policy, policy_class
from dro_trl.recipes.estimates.quantities import Compared
from dro_trl.trainer.building import load_tokenizers
from dro_trl.trainer.dataset import prepare_dataset
from dro_trl.trainer.dro_config import DROConfig
from dro_trl.types import Question

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StatedLengths:
    """Lengths in tokens where no data is at hand."""

    passage: int = 130
    """About 100 words, as in the Wikipedia passages of DPR and KILT."""
    question: int = 20
    answer: int = 8
    """The newline or end behind it included."""


@dataclass(frozen=True)
class QuestionLengths:
    """What one question has the models read, in tokens."""

    selector: float
    selector_kept: float
    """Positions at which the selector's logits are computed."""
    generator: float
    """One prompt with its answer."""
    answer: float
    selector_rows: float = 1
    """Rows of `selector` tokens in which the selector reads the question."""
    selector_compared: Compared | None = None
    """What its attention compares in a row, where several continuations share a prompt."""
    selector_longest: float = 0.0
    """The prompt with the longest of them."""


@dataclass(frozen=True)
class Lengths:
    """The lengths of a run's questions."""

    mean: QuestionLengths
    longest: QuestionLengths
    num_questions: int | None
    """How many are trained on, where the data is at hand."""
    source: str
    """Where they come from."""


def attention_sizes(blocks: Blocks | None) -> tuple[Compared | None, float]:
    """Return what attention block by block compares in a row, and what a window must hold for that.

    The second is the longest prompt with one of several continuations; a shorter window puts the row under a mask. It
    is 0 where there are no several: with a shorter window such texts are padded, which is not counted.
    """
    if blocks is None or blocks.prompts is None:
        return None, 0.0
    rows, width = blocks.prompts.shape
    causal = Compared(rows * width**2 / 2, rows * width, 0)
    if blocks.queries is None or blocks.mask is None:
        return causal, 0.0
    groups, most = blocks.queries.shape
    span = blocks.mask.shape[-1]
    pairs = causal.pairs + groups * most * span
    return Compared(pairs, causal.keys, groups * span, blocks.mask.numel()), blocks.longest


def passages_read(args: DROConfig) -> int:
    """Return how many passages of a selection the generator reads in training: K, or 1 where each is a selection."""
    kwargs: Any = args.policy_kwargs or {}
    return 1 if kwargs.get("proposal") == "every_passage" else args.num_selected


def stated_lengths(args: DROConfig, stated: StatedLengths) -> QuestionLengths:
    """Return the lengths that stated ones add up to; the texts around them are counted with three tokens each."""
    passage = min(stated.passage, args.max_passage_tokens or stated.passage) + 3
    n, k = args.num_candidates, args.num_selected
    kwargs: Any = args.policy_kwargs or {}
    policy = policy_class(args.policy)
    lengths = StatedReading(stated.question + 12, passage, stated.question, n, k, args.num_selections)
    read = policy.stated_reading(lengths, **kwargs)
    generator = passages_read(args) * passage + stated.question + 6 + stated.answer
    sizes = attention_sizes(read.blocks)
    return QuestionLengths(read.tokens, read.kept, generator, stated.answer, read.rows, *sizes)


def measured_lengths(
    rows: Sequence[Question], tokenizer: Any, args: DROConfig, seed: int = 0
) -> list[QuestionLengths]:
    """Return the lengths of each question, whose passages are cut, as in training, with selections drawn at random."""
    kwargs: Any = args.policy_kwargs
    policy: Any = load_policy(args.policy, tokenizer, args.num_selected, kwargs)
    draw = random.Random(seed)
    return [_lengths_of(row, policy, tokenizer, args, draw) for row in rows]


def _lengths_of(row: Question, policy: Any, tokenizer: Any, args: DROConfig, draw: random.Random) -> QuestionLengths:
    numbers, read = range(len(row["candidates"])), passages_read(args)
    drawn = [draw.sample(numbers, read) for _ in range(args.num_selections)]
    selection, batch = drawn[0], policy.packed(policy.encode([row]), torch.tensor([drawn]))
    rows, length = batch.input_ids.shape
    blocks = batch.blocks or blocks_of([length - 1] * rows, [[1]] * rows)
    text = prompts.generator_prompt(row["question"], [row["candidates"][i] for i in selection])
    answer = len(encoding.answer_ids(tokenizer, row["answers"][0]))
    prompt = len(encoding.encode(tokenizer, encoding.render(tokenizer, text)))
    kept = int(batch.logits_to_keep.sum())
    return QuestionLengths(len(blocks.texts), kept, prompt + answer, answer, 1, *attention_sizes(blocks))


def find_lengths(
    script: Any, args: DROConfig, tokenizer_name: str, stated: StatedLengths | None, sample: int = 200
) -> Lengths:
    """Return the lengths of a recipe's questions.

    Args:
        script: Says which dataset.
        args: The trainer's options.
        tokenizer_name: Where the tokenizer is.
        stated: Used instead of the data; where None, only if there is no such file or tokenizer here.
        sample: How many of the questions are encoded; how many are answerable is taken from their share in these.

    Raises:
        ValueError: As `prepare_dataset`, or if the policy is not one that is known here.
    """
    num_questions = None
    if Path(str(script.dataset_name)).exists():
        data = load_rag_dataset(
            str(script.dataset_name),
            split=script.dataset_train_split,
            on_bad_row=script.on_bad_row,
            require_candidates=stated is None,
        )
        num_questions = min(len(data), script.max_train_samples or len(data))
        if stated is None and Path(tokenizer_name).is_dir():
            numbers = random.Random(0).sample(range(num_questions), min(sample, num_questions))
            source = f"{len(numbers)} of {num_questions} rows of {script.dataset_name}"
            start = Start(whole_name(tokenizer_name), tokenizer_name)
            tokenizer = load_tokenizers({"selector": start}, args, None)["selector"]
            rows = prepare_dataset(data.select(numbers), source, None, tokenizer, args, training=True)
            assert rows is not None  # As those that were given.
            if args.answerable_only:
                source += f", {len(rows)} of them answerable"
            found = measured_lengths(list(rows), tokenizer, args)
            return _summary(found, round(num_questions * len(rows) / len(numbers)), source)
    stated = stated or StatedLengths()
    lengths = stated_lengths(args, stated)
    source = f"stated: passages of {stated.passage} tokens, questions of {stated.question}, answers of {stated.answer}"
    return Lengths(lengths, lengths, num_questions, source)


def _summary(found: list[QuestionLengths], num_questions: int, source: str) -> Lengths:
    return Lengths(_over(found, fmean), _over(found, max), num_questions, source)


def _over(found: Sequence[Any], summary: Callable[[list[float]], float]) -> Any:
    """One of the same class, each of whose numbers is the mean or the largest of all."""
    columns = {name: [getattr(row, name) for row in found] for name in vars(found[0])}
    return type(found[0])(
        **{
            name: summary(values) if isinstance(values[0], (int, float)) else _over(values, summary)
            for name, values in columns.items()
        }
    )
