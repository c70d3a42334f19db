"""Running systems over the same questions."""

from collections.abc import Sequence
from typing import Literal

from dro_trl.evaluation.metrics import Prediction
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
