"""Teacher orders: which candidates a warm-up learns to select, best first."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accelerate.utils import gather_object
from datasets import Dataset

from dro_trl.files.writing import load_object, write_json
from dro_trl.lm.sharding import loading_whole
from dro_trl.lm.tokens import Tokenizer
from dro_trl.lm.turns import saved_turns
from dro_trl.models.answers import AnswerScorer, score_answers
from dro_trl.models.loading import load_model
from dro_trl.retrieval.trec_run import read_run
from dro_trl.trainer.dataset import prepare_dataset
from dro_trl.trainer.resuming import describe_run
from dro_trl.trainer.warmup_config import WarmupConfig
from dro_trl.types import Selection

logger = logging.getLogger(__name__)

RETRIEVED = "retrieved_ids"
"""A column with the ids of each question's candidates in the retriever's order."""

Row = dict[str, Any]
"""A `Question` with its `RETRIEVED`."""


@dataclass
class TaughtRows:
    """Rows with the selections to learn, and what was left out."""

    dataset: Dataset
    """As `prepare_dataset` returns it."""
    selections: list[Selection]
    """For each row, up to K of its candidates, best first."""
    left_out: dict[str, int] = field(default_factory=dict)
    """Number of questions by reason."""


def teach(
    dataset: Dataset,
    name: str,
    args: WarmupConfig,
    tokenizer: Tokenizer,
    generator: str,
    loading: dict[str, Any],
    training: bool = False,
) -> TaughtRows:
    """Prepare rows as for DRO, and give each the first K places of the teacher's order.

    A question of which the teacher ranks no candidate (without a gold passage among them, for example) is left out.

    Args:
        dataset: Rows as `DROTrainer` takes them.
        name: What to call them in errors and in the name of the cache.
        args: Options.
        tokenizer: The generator's.
        generator: Name or folder of the generator, which `teacher="likelihood"` asks.
        loading: How to load it.
        training: Whether the rows are to be trained on.

    Raises:
        ValueError: If a row is faulty, the teacher has nothing to go by, or no row is left.
    """
    retrieved = [[passage["id"] for passage in candidates] for candidates in dataset["candidates"]]
    rest = dataset.remove_columns([RETRIEVED] if RETRIEVED in dataset.column_names else [])
    marked = rest.add_column(RETRIEVED, retrieved)
    prepared = prepare_dataset(marked, name, None, tokenizer, args, training)
    assert prepared is not None
    rows = prepared.to_list()
    orders = teacher_orders(rows, name, args, tokenizer, generator, loading)
    kept = [number for number, order in enumerate(orders) if order]
    unranked = (
        "no gold passage among the candidates" if args.teacher == "gold" else "no candidate ranked by the teacher"
    )
    counts = {unranked: len(rows) - len(kept), "not answerable (answerable_only)": len(dataset) - len(rows)}
    left_out = {reason: count for reason, count in counts.items() if count}
    for reason, count in left_out.items():
        logger.warning(f"{name}: {count} of {len(dataset)} questions are left out: {reason}")
    if not kept:
        raise ValueError(
            f"{name}: no question is left to learn from ({left_out}); retrieve more, or set another teacher"
        )
    selections = [orders[number][: args.num_selected] for number in kept]
    return TaughtRows(prepared.select(kept), selections, left_out)


def teacher_orders(
    rows: Sequence[Row], name: str, args: WarmupConfig, tokenizer: Tokenizer, generator: str, loading: dict[str, Any]
) -> list[list[int]]:
    """Return for each row the candidates that the teacher ranks, best first; arguments as in `teach`."""
    if args.teacher == "likelihood":
        orders = likelihood_order(rows, name, args, tokenizer, generator, loading)
    elif args.teacher == "run":
        orders = run_order(rows, name, str(args.teacher_run))
    elif args.teacher == "gold":
        orders = gold_order(rows, name)
    else:
        orders = [row[RETRIEVED] for row in rows]
    places = [{passage["id"]: index for index, passage in enumerate(row["candidates"])} for row in rows]
    return [[place[id] for id in order if id in place] for place, order in zip(places, orders, strict=True)]


def gold_order(rows: Sequence[Row], name: str) -> list[list[str]]:
    """Return each question's gold passages among its candidates, in the retriever's order.

    Raises:
        ValueError: If no row has any gold passage.
    """
    if not any(row.get("gold_ids") for row in rows):
        raise ValueError(
            f"{name}: teacher='gold' needs gold_ids, and no row has any; give rows that do, or another teacher "
            "('likelihood', 'retriever', 'run')"
        )
    return [[id for id in row[RETRIEVED] if id in (row["gold_ids"] or ())] for row in rows]


def run_order(rows: Sequence[Row], name: str, path: str) -> list[list[str]]:
    """Return each question's ranking in a TREC run file, whose query ids are those of the column `id`.

    Raises:
        ValueError: If there is no such column, or the file ranks nothing for some question; the first ones are named.
    """
    if "id" not in rows[0]:
        raise ValueError(f"{name}: teacher='run' finds a question by its column 'id', which is missing; add it")
    run, ids = read_run(Path(path)), [str(row["id"]) for row in rows]
    if missing := [id for id in ids if id not in run]:
        named = ", ".join(map(repr, missing[:5])) + (", …" if len(missing) > 5 else "")
        raise ValueError(
            f"teacher_run {path} has no ranking for {len(missing)} of {len(rows)} questions of {name} ({named}); rank "
            "these too, or take them out of the dataset"
        )
    return [[id for id, _ in run[query_id]] for query_id in ids]


def likelihood_order(
    rows: Sequence[Row], name: str, args: WarmupConfig, tokenizer: Tokenizer, generator: str, loading: dict[str, Any]
) -> list[list[str]]:
    """Rank each candidate by the generator's log-likelihood of the answer given that passage alone.

    The processes share the work. The result is kept in `output_dir`, and taken from there as long as the rows, the
    prompt and the generator's files are the same.
    """
    cache = Path(str(args.output_dir)) / f"teacher_likelihood.{name}.json"
    files = sorted((file.name, file.stat().st_mtime_ns) for file in Path(generator).glob("*.*"))
    turns = saved_turns({"generator": tokenizer})
    of = describe_run(
        {"prompt_texts": args.prompt_texts, "loading": loading, "turns": turns}, rows, generator=generator, files=files
    )
    if cache.is_file():
        saved = load_object(cache, "delete it: the order is found again", "of", "ranked")
        if saved["of"] == of:
            return [[id for id, _ in ranked] for ranked in saved["ranked"]]
    state = args.distributed_state
    with loading_whole():
        model = load_model(generator, loading)
    if not hasattr(model, "hf_device_map"):
        model.to(args.device)  # type: ignore[arg-type]
    mine = range(state.process_index, len(rows), state.num_processes)
    alone = [[[i] for i in range(len(rows[number]["candidates"]))] for number in mine]
    scorer = AnswerScorer(tokenizer, texts=args.texts)
    size = args.per_device_eval_batch_size
    asked = [rows[number] for number in mine]
    scores = score_answers(model.eval(), scorer, asked, alone, size, progress=state.is_main_process)  # type: ignore[arg-type]
    found: dict[int, list[float]] = dict(gather_object(list(zip(mine, scores, strict=True))))
    ranked = [
        sorted(
            ((p["id"], s) for p, s in zip(row["candidates"], found[number], strict=True)), key=lambda pair: -pair[1]
        )
        for number, row in enumerate(rows)
    ]
    if state.is_main_process:
        write_json(cache, {"of": of, "ranked": ranked})
    return [[id for id, _ in one] for one in ranked]
