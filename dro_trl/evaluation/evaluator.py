"""Running systems over the same questions."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Literal

from dro_trl.evaluation.comparison import EvaluationReport, compare
from dro_trl.evaluation.metrics import Prediction, check_extra
from dro_trl.pipeline import RAGPipeline
from dro_trl.types import Question


def predict(
    pipeline: RAGPipeline,
    rows: Sequence[Question],
    order: Literal["selector", "retriever"] = "selector",
    batch_size: int = 8,
    max_new_tokens: int = 32,
) -> list[Prediction]:
    """Run one system over questions that have candidates.

    Args:
        pipeline: The pair of models.
        rows: Questions with candidates, answers and optionally gold passages.
        order: Whose K passages the generator reads.
        batch_size: Questions in a batch; the result does not depend on it.
        max_new_tokens: Longest answer, in tokens.

    Returns:
        One prediction a row, in the order of the rows; `ranking` holds the K passages that the generator read.
    """
    outputs = pipeline.predict(rows, order=order, batch_size=batch_size, max_new_tokens=max_new_tokens)
    return [
        Prediction(
            question=row["question"],
            answers=row["answers"],
            gold_ids=row.get("gold_ids"),
            ranking=[passage["id"] for passage in output.passages],
            answer=output.answer,
        )
        for row, output in zip(rows, outputs, strict=True)
    ]


SYSTEMS = ("start, retriever order", "start", "trained, retriever order", "trained")
"""The pair before and after training; the generator reads the retriever's first K passages, or the selector's."""


def evaluate_pair(
    folder: str | Path,
    rows: Sequence[Question],
    systems: Sequence[str] = SYSTEMS,
    *,
    ks: Sequence[int] | None = None,
    seed: int = 0,
    batch_size: int = 8,
    max_new_tokens: int = 32,
    extra_metrics: Collection[str] = (),
    **model_kwargs: Any,
) -> tuple[EvaluationReport, dict[str, list[Prediction]]]:
    """Compare a trained pair with others of `SYSTEMS` on the same questions.

    Args:
        folder: What `DROTrainer` saved.
        rows: Questions with candidates, answers and optionally gold passages.
        systems: Which of `SYSTEMS` to run, `"trained"` among them: the others are its baselines.
        ks: Depths of recall and nDCG; 1 and K where None.
        seed: Of the bootstrap.
        batch_size: Questions in a batch; the result does not depend on it.
        max_new_tokens: Longest answer, in tokens.
        extra_metrics: As `extra` of `score_predictions`.
        **model_kwargs: For `RAGPipeline.from_pretrained`, such as `device`, `dtype` and `num_selected`.

    Returns:
        The report, and each system's predictions.

    Raises:
        ValueError: If a system or an extra metric is unknown, or `"trained"` is not among the systems.
    """
    check_extra(extra_metrics)
    if "trained" not in systems or not set(systems) <= set(SYSTEMS):
        raise ValueError(f"systems={list(systems)} must hold 'trained' and otherwise some of {list(SYSTEMS)}")
    predictions: dict[str, list[Prediction]] = {}
    for name, load in (("start", RAGPipeline.from_start), ("trained", RAGPipeline.from_pretrained)):
        wanted = [system for system in SYSTEMS if system in systems and system.partition(",")[0] == name]
        if not wanted:
            continue
        pipeline = load(folder, **model_kwargs)
        ks = ks or sorted({1, pipeline.policy.num_selected})
        for system in wanted:
            order: Literal["selector", "retriever"] = "selector" if system == name else "retriever"
            predictions[system] = predict(pipeline, rows, order, batch_size, max_new_tokens)
        del pipeline  # Before the next pair is loaded.
    baselines = [system for system in predictions if system != "trained"]
    report = compare(
        predictions, target="trained", baselines=baselines, ks=ks or [], seed=seed, extra_metrics=extra_metrics
    )
    return report, predictions
