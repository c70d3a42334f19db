"""From the datasets that the user gives to those that the trainer reads."""

import contextlib
import logging
import math
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import pyarrow.compute as pc
import torch
from accelerate.utils import gather_object
from datasets import Dataset, Features, concatenate_datasets

from dro_trl.data.attach import attach_candidates
from dro_trl.data.given import as_dataset, is_stream
from dro_trl.data.mapped_rows import MappedRows
from dro_trl.data.row_checks import validate_dataset
from dro_trl.data.row_files import dataset_of
from dro_trl.data.schema import COLUMNS
from dro_trl.lm.fitting import check_fit, cut_passages, warn_of_special_tokens
from dro_trl.lm.tokens import Tokenizer
from dro_trl.metrics import mentions_answer, normalize_answer
from dro_trl.policies.gold import MOST_IN_ANY_ORDER, gold_places
from dro_trl.policies.randomness import random_generator
from dro_trl.records import rows_digest
from dro_trl.retrieval.base import Retriever
from dro_trl.trainer.dro_config import DROConfig, SelectionConfig
from dro_trl.types import Question

logger = logging.getLogger(__name__)

_ROWS_PER_BATCH = 1_000
_MOST_KNOWN = 50_000
"""Passages that are kept in memory once they are cut, since questions share them."""


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
    dataset: Any,
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
        dataset: Rows as in `DROTrainer`; None is passed through. Of a stream so many are read as the run trains on.
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
    streamed = is_stream(dataset)
    most = rows_of_run(args, name) if streamed and training else None
    dataset = as_dataset(dataset, name, most, require_candidates=retriever is None)
    if streamed and args.world_size > 1:
        _check_alike(dataset, name)
    if retriever is not None and "candidates" not in dataset.column_names:
        dataset = attach_candidates(dataset, retriever, args.num_candidates)
    validate_dataset(dataset, name)
    _check_lengths(dataset, name, args.num_selected)
    if args.max_passage_tokens is not None:
        dataset = _with_cut_passages(dataset, name, tokenizer, args.max_passage_tokens)
    read = _read_only(dataset)
    warn_of_special_tokens(read, name, tokenizer)
    if pair is not None:
        check_fit(read, name, pair.selector, pair.generator, pair.policy, pair.scorer)
    if isinstance(args, DROConfig) and args.loss_type == "supervised":
        _check_gold(dataset, name, args, left_out=training and args.answerable_only)
    if training:
        dataset = _with_answers(dataset, name, args.answerable_only)
    if training and args.shuffle_candidates:
        dataset = _with_candidates(dataset, (_shuffled(row, args.seed) for row in _questions(dataset)))
    return dataset


def prepare_sets(dataset: Any, name: str, **options: Any) -> Any:
    """Prepare rows to evaluate on, or several sets of them by name, as `prepare_dataset` does."""
    if not isinstance(dataset, dict):
        return prepare_dataset(dataset, name, **options)
    return {part: prepare_dataset(rows, f"{name}[{part!r}]", **options) for part, rows in dataset.items()}


def rows_of_run(args: SelectionConfig, name: str) -> int:
    """Return how many rows a run trains on, each once, as far as a stream has so many.

    Raises:
        ValueError: If `args.max_steps` does not say.
    """
    if args.max_steps <= 0:
        raise ValueError(
            f"{name} is a stream of rows, whose length nobody knows: set max_steps, which says how many are read"
        )
    of_step: int = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    steps, uses = (args.steps_per_estimation, args.num_iterations) if isinstance(args, DROConfig) else (1, 1)
    return math.ceil(args.max_steps / (steps * uses)) * steps * of_step


def _check_alike(dataset: Dataset, name: str) -> None:
    """Refuse a stream of which the processes have read different rows."""
    if len(set(gather_object([rows_digest(dataset)]))) > 1:
        raise ValueError(
            f"{name} is a stream that gives each process other rows; shuffle it with a seed, or give a list"
        )


def _questions(dataset: Dataset) -> Dataset:
    """The rows as plain values, of what the schema knows of; what is iterated over is not all in memory."""
    return dataset.select_columns([name for name in dataset.column_names if name in COLUMNS]).with_format(None)


def _read_only(dataset: Dataset) -> MappedRows:
    """The same, a third of the time to go through: further fields of passages may be undecoded, so not to be kept."""
    return MappedRows(_questions(dataset))


def _check_lengths(dataset: Dataset, name: str, num_selected: int) -> None:
    tables = dataset.select_columns("candidates").with_format("arrow").iter(_ROWS_PER_BATCH)
    lengths = (length for table in tables for length in pc.list_value_length(table["candidates"]).to_pylist())
    for row, length in enumerate(lengths, start=1):
        if length < num_selected:
            raise ValueError(
                f"{name}, row {row}: field 'candidates': found {length} passages, fewer than "
                f"num_selected={num_selected}; retrieve more, or lower num_selected"
            )


def _check_gold(dataset: Dataset, name: str, args: DROConfig, left_out: bool) -> None:
    """Refuse rows that supervision cannot be had from; those that are left out as not answerable do not count."""
    lacking, sizes = [], {}
    for number, row in enumerate(_read_only(dataset), start=1):
        places = gold_places(row, args.num_selected)
        if not places and not (left_out and not is_answerable(row)):
            lacking.append(number)
        sizes[number] = len(places)
    if lacking:
        raise ValueError(
            f"{name}, row {lacking[0]}: no candidate is a gold passage (gold_ids), and loss_type='supervised' learns "
            f"from them ({len(lacking)} of {len(dataset)} rows); retrieve more candidates, or leave those out"
        )
    if sizes and max(sizes.values()) > MOST_IN_ANY_ORDER:
        number = max(sizes, key=sizes.__getitem__)
        raise ValueError(
            f"{name}, row {number}: {sizes[number]} gold passages, of which loss_type='supervised' goes through "
            f"{math.factorial(sizes[number])} orders; lower num_selected={args.num_selected} to {MOST_IN_ANY_ORDER}"
        )


def _with_cut_passages(dataset: Dataset, name: str, tokenizer: Tokenizer, max_tokens: int) -> Dataset:
    num_cut = num_passages = 0
    known: dict[str, str] = {}

    def cut_rows() -> Iterator[Question]:
        nonlocal num_cut, num_passages
        for batch in _batches(_questions(dataset)):
            if len(known) > _MOST_KNOWN:
                known.clear()
            rows, cut = cut_passages(batch, tokenizer, max_tokens, known)
            num_cut += cut
            num_passages += sum(len(row["candidates"]) for row in rows)
            yield from rows

    dataset = _with_candidates(dataset, cut_rows())
    logger.warning(f"{name}: {num_cut} of {num_passages} passages cut to max_passage_tokens={max_tokens}")
    return dataset


def _with_candidates(dataset: Dataset, rows: Iterable[Question]) -> Dataset:
    """The dataset with the candidates of other rows; its other columns, whatever they hold, are not touched."""
    features = Features({"candidates": dataset.features["candidates"]})
    tables = (
        Dataset.from_dict({"candidates": [row["candidates"] for row in batch]}, features=features).data.table
        for batch in _batches(rows)
    )
    column = dataset_of(tables, features.arrow_schema)
    changed: Dataset = concatenate_datasets([dataset.remove_columns("candidates"), column], axis=1)
    return changed


def _batches(rows: Iterable[Question]) -> Iterator[list[Question]]:
    iterator = iter(rows)
    while batch := list(islice(iterator, _ROWS_PER_BATCH)):
        yield batch


def _with_answers(dataset: Dataset, name: str, answerable_only: bool) -> Dataset:
    """Keep the rows that are answerable, or say so where most are not."""
    kept = [number for number, row in enumerate(_read_only(dataset)) if is_answerable(row)]
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
