"""From the datasets that the user gives to those that the trainer reads."""

import contextlib
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from datasets import Dataset, Features, concatenate_datasets

from dro_trl.data.attach import attach_candidates
from dro_trl.data.row_checks import validate_dataset
from dro_trl.dro_config import SelectionConfig
from dro_trl.lm.fitting import check_fit, cut_passages, warn_of_special_tokens
from dro_trl.metrics import mentions_answer, normalize_answer
from dro_trl.prompts import Tokenizer
from dro_trl.retrieval.base import Retriever
from dro_trl.sampler import random_generator
from dro_trl.types import Question

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def naming_sources(**sources: str | None) -> Iterator[None]:
    """Let an error that begins with the name of some rows say as well where they are from.

    Args:
        **sources: A file or a name on a hub for names such as `train_dataset`; nothing where there is none.
    """
    try:
        yield
    except ValueError as error:
        said = str(error)
        for name, source in sources.items():
            if source and said.startswith((f"{name}, row ", f"{name}: ")):
                raise ValueError(f"{name} ({source}){said.removeprefix(name)}") from error
        raise


def prepare_dataset(
    dataset: Dataset | None,
    name: str,
    retriever: Retriever | None,
    tokenizer: Tokenizer,
    args: SelectionConfig,
    training: bool = False,
    pair: Any = None,
) -> Dataset | None:
    """Attach candidates where a dataset has none, check every row, and cut long passages.

    Training rows are also counted, or kept, by whether their answer can be found, and their candidates shuffled.

    Args:
        dataset: Rows as in `DROTrainer`; None is passed through.
        name: What to call it in errors, such as `"train_dataset"`.
        retriever: Finds `args.num_candidates` candidates.
        tokenizer: The generator's, which counts `args.max_passage_tokens`.
        args: Options.
        training: Whether the rows are to be trained on.
        pair: The `SelectorGenerator` that has to be able to read them; not asked where None.

    Raises:
        ValueError: If a row is faulty, has fewer candidates than `args.num_selected` or longer prompts than a model
            can read, or none is left.
    """
    if dataset is None:
        return None
    if retriever is not None and "candidates" not in dataset.column_names:
        dataset = attach_candidates(dataset, retriever, args.num_candidates)
    validate_dataset(dataset, name)
    for row, candidates in enumerate(dataset["candidates"], start=1):
        if len(candidates) < args.num_selected:
            raise ValueError(
                f"{name}, row {row}: field 'candidates': found {len(candidates)} passages, fewer than "
                f"num_selected={args.num_selected}; retrieve more, or lower num_selected"
            )
    if args.max_passage_tokens is not None:
        rows, cut = cut_passages(dataset.to_list(), tokenizer, args.max_passage_tokens)
        total = sum(len(row["candidates"]) for row in rows)
        logger.warning(f"{name}: {cut} of {total} passages cut to max_passage_tokens={args.max_passage_tokens}")
        dataset = _with_candidates(dataset, rows)
    read = dataset.to_list()
    warn_of_special_tokens(read, name, tokenizer)
    if pair is not None:
        check_fit(read, name, pair.selector, pair.generator, pair.policy, pair.scorer)
    if training:
        dataset = _with_answers(dataset, name, args.answerable_only)
    if training and args.shuffle_candidates:
        dataset = _with_candidates(dataset, [_shuffled(row, args.seed) for row in dataset.to_list()])
    return dataset


def _with_candidates(dataset: Dataset, rows: Sequence[Question]) -> Dataset:
    """The dataset with the candidates of other rows; its other columns, whatever they hold, are not touched."""
    features = Features({"candidates": dataset.features["candidates"]})
    column = Dataset.from_dict({"candidates": [row["candidates"] for row in rows]}, features=features)
    changed: Dataset = concatenate_datasets([dataset.remove_columns("candidates"), column], axis=1)
    return changed


def _with_answers(dataset: Dataset, name: str, answerable_only: bool) -> Dataset:
    """Keep the rows that are answerable, or say so where most are not."""
    kept = [number for number, row in enumerate(dataset) if is_answerable(row)]
    found = f"{name}: the answer stands in a candidate, and not in the question, in {len(kept)} of {len(dataset)} rows"
    if not answerable_only:
        if len(kept) < len(dataset) / 2:
            logger.warning(
                f"{found}; in the others its likelihood says little of which passages to select. Retrieve more "
                "candidates, raise max_passage_tokens, or set answerable_only=True"
            )
        return dataset
    if not kept:
        raise ValueError(f"{found}, and answerable_only=True leaves nothing to train on; set it to False")
    logger.warning(f"{found}; the other {len(dataset) - len(kept)} are left out (answerable_only=True)")
    return dataset.select(kept)


def is_answerable(row: Question) -> bool:
    """Whether a candidate mentions the answer, which is neither in the question already nor a mere yes or no."""
    answers = row["answers"]
    if {normalize_answer(answer) for answer in answers} <= {"yes", "no"} or mentions_answer(row["question"], answers):
        return False
    texts = (passage[field] for passage in row["candidates"] for field in ("title", "text"))
    return any(mentions_answer(text, answers) for text in texts)


def _shuffled(row: Question, seed: int) -> Question:
    """The row with its candidates in an order that depends on seed and question alone; draws count from 0."""
    order = torch.randperm(len(row["candidates"]), generator=random_generator(seed, -1, row["question"])).tolist()
    return Question(**{**row, "candidates": [row["candidates"][i] for i in order]})
