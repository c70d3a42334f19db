"""From the datasets that the user gives to those that the trainer reads."""

import logging

import torch
from datasets import Dataset

from dro_trl import prompts
from dro_trl.data.attach import attach_candidates
from dro_trl.data.schema import validate_dataset
from dro_trl.dro_config import DROConfig
from dro_trl.prompts import Tokenizer
from dro_trl.retrieval.base import Retriever
from dro_trl.sampler import random_generator
from dro_trl.types import Question

logger = logging.getLogger(__name__)


def prepare_dataset(
    dataset: Dataset | None,
    name: str,
    retriever: Retriever | None,
    tokenizer: Tokenizer,
    args: DROConfig,
    shuffle: bool = False,
) -> Dataset | None:
    """Attach candidates where a dataset has none, check every row, and cut long passages.

    Args:
        dataset: Rows as in `DROTrainer`; None is passed through.
        name: What to call it in errors, such as `"train_dataset"`.
        retriever: Finds `args.num_candidates` candidates.
        tokenizer: The generator's, which counts `args.max_passage_tokens`.
        args: Options.
        shuffle: Whether to put each row's candidates in a random order.

    Raises:
        ValueError: If a row is faulty, or has fewer candidates than `args.num_selected`.
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
        rows, cut = prompts.cut_passages(dataset.to_list(), tokenizer, args.max_passage_tokens)
        total = sum(len(row["candidates"]) for row in rows)
        logger.warning(f"{name}: {cut} of {total} passages cut to max_passage_tokens={args.max_passage_tokens}")
        dataset = Dataset.from_list(rows, features=dataset.features)
    if shuffle:
        shuffled = [_shuffled(row, args.seed) for row in dataset.to_list()]
        dataset = Dataset.from_list(shuffled, features=dataset.features)
    return dataset


def _shuffled(row: Question, seed: int) -> Question:
    """The row with its candidates in an order that depends on seed and question alone; draws count from 0."""
    order = torch.randperm(len(row["candidates"]), generator=random_generator(seed, -1, row["question"])).tolist()
    return Question(**{**row, "candidates": [row["candidates"][i] for i in order]})
