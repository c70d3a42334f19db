"""A reward that needs no generator: does the selection hold the gold passages?"""

from typing import Any

from dro_trl.metrics import recall
from dro_trl.types import Passage, Selection


def evidence_recall_reward(
    selections: list[Selection], candidates: list[list[Passage]], gold_ids: list[list[str] | None], **kwargs: Any
) -> list[float]:
    """Reward a selection by the share of its question's gold passages that it holds.

    A gold passage that is not among the candidates counts as missed, so the best reachable reward may be below 1.

    Args:
        selections: Zero-based indices into the candidates, one ordered subset per entry.
        candidates: The candidates of each selection's question.
        gold_ids: The identifiers of the gold passages of each selection's question.
        **kwargs: Other columns; `question`, where present, is quoted in the error.

    Returns:
        One number in [0, 1] per selection.

    Raises:
        ValueError: The lists differ in length, or an entry has no gold passages.
    """
    rewards = []
    for row, (selection, passages, gold) in enumerate(zip(selections, candidates, gold_ids, strict=True)):
        if not gold:
            raise ValueError(_no_gold(row, gold, kwargs.get("question")))
        rewards.append(recall(gold, [passages[index]["id"] for index in selection]))
    return rewards


def _no_gold(row: int, gold: list[str] | None, questions: list[str] | None) -> str:
    where = f"row {row} of the batch" + (f" (question {questions[row]!r})" if questions else "")
    return (
        f"evidence_recall_reward: {where} has gold_ids={gold!r}, so its evidence recall is undefined. "
        "Filter the dataset to rows with gold_ids, or use a reward that needs none, such as token_f1_reward."
    )
