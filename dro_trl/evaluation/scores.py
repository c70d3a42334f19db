"""What a system predicted for a question, and the scores of one system, question by question."""

from collections import Counter
from collections.abc import Collection, Sequence
from typing import TypedDict

import ir_measures
import numpy as np
from ir_measures.measures import Measure
from numpy.typing import NDArray

from dro_trl.metrics import exact_match, has_answer, rouge_l, token_f1

EXTRA_METRICS = ("success", "map", "all_gold", "acc", "rouge_l")
"""Metrics that are computed where they are asked for: whether a gold passage is among the first k (with answers as
gold, the top-k accuracy of DPR); mean average precision of the ranking; whether all gold passages are in it; whether a
true answer stands in the predicted one; ROUGE-L of the answer, for datasets of sentences as in Wizard of Wikipedia."""


class Prediction(TypedDict):
    """What one system made of one question, with what is needed to judge it."""

    question: str
    answers: list[str]
    """Aliases of the true answer, at least one."""
    gold_ids: list[str] | None
    """Identifiers of the gold passages; None or empty where the source names none."""
    ranking: list[str]
    """Identifiers of the passages in the system's order, best first, no duplicates; empty if it retrieves nothing."""
    answer: str
    """The system's answer, possibly empty."""


Scores = dict[str, NDArray[np.float64]]
"""Metric name to one score per question, shape (num_questions,), NaN where the metric is undefined."""


def retrieval_metrics(ks: Sequence[int]) -> list[str]:
    """Name the metrics that need gold passages: recall@k for each k, mrr, ndcg@k for each k.

    Args:
        ks: Depths, each at least 1.

    Returns:
        The names, in the order of tables, each depth once and ascending.

    Raises:
        ValueError: `ks` is empty or holds a depth below 1.
    """
    if not ks or min(ks) < 1:
        raise ValueError(f"ks={list(ks)}: give at least one depth, each 1 or more, such as ks=[1, 5]")
    depths = sorted(set(ks))
    return [*(f"recall@{k}" for k in depths), "mrr", *(f"ndcg@{k}" for k in depths)]


def check_extra(names: Collection[str]) -> None:
    """Check names of extra metrics.

    Raises:
        ValueError: One is not of `EXTRA_METRICS`.
    """
    if unknown := set(names) - set(EXTRA_METRICS):
        raise ValueError(f"unknown metrics {sorted(unknown)}; expected some of {', '.join(EXTRA_METRICS)}")


def score_predictions(predictions: Sequence[Prediction], ks: Sequence[int], extra: Collection[str] = ()) -> Scores:
    """Score every prediction: recall@k, MRR and nDCG@k of its ranking (by ir_measures), EM and F1 of its answer.

    Reciprocal rank, average precision and `all_gold` are cut at the largest of `ks`, so that a system which ranks more
    passages gains nothing.

    Args:
        predictions: One per question.
        ks: Depths for recall@k and nDCG@k, each at least 1.
        extra: Some of `EXTRA_METRICS`.

    Returns:
        An array of shape (num_questions,) per metric, all in [0, 1]; NaN for the retrieval metrics of a question
        without gold passages, and for those of a system that retrieves nothing at all.

    Raises:
        ValueError: `ks` is empty or holds a depth below 1, a ranking names a passage twice, an answer has no alias,
            or `extra` names an unknown metric.
    """
    check_extra(extra)
    scores = _score_rankings(predictions, ks, extra)
    scores["em"] = np.array([exact_match(p["answer"], p["answers"]) for p in predictions], dtype=np.float64)
    scores["f1"] = np.array([token_f1(p["answer"], p["answers"]) for p in predictions], dtype=np.float64)
    if "acc" in extra:
        stands = np.array([has_answer(p["answer"], p["answers"]) for p in predictions], dtype=np.float64)
        # EM leaves articles and punctuation out; an exact match is never less than accurate.
        scores["acc"] = np.maximum(stands, scores["em"])
    if "rouge_l" in extra:
        scores["rouge_l"] = np.array([rouge_l(p["answer"], p["answers"]) for p in predictions], dtype=np.float64)
    return scores


def _score_rankings(predictions: Sequence[Prediction], ks: Sequence[int], extra: Collection[str]) -> Scores:
    columns = retrieval_metrics(ks)
    names: dict[Measure, str] = {ir_measures.RR: "mrr"}
    for k in ks:
        names |= {ir_measures.R @ k: f"recall@{k}", ir_measures.nDCG @ k: f"ndcg@{k}"}
    if "success" in extra:
        names |= {ir_measures.Success @ k: f"success@{k}" for k in ks}
        columns += [f"success@{k}" for k in sorted(set(ks))]
    if "map" in extra:
        names[ir_measures.AP] = "map"
        columns.append("map")
    scores = {name: np.full(len(predictions), np.nan) for name in columns}
    retrieves = any(prediction["ranking"] for prediction in predictions)
    qrels: dict[str, dict[str, int]] = {}
    run: dict[str, dict[str, float]] = {}
    for row, prediction in enumerate(predictions):
        if prediction["gold_ids"] and retrieves:
            qrels[str(row)] = dict.fromkeys(prediction["gold_ids"], 1)
            run[str(row)] = _descending_scores(prediction, row, depth=max(ks))
    for metric in ir_measures.iter_calc(list(names), qrels, run):
        scores[names[metric.measure]][int(metric.query_id)] = metric.value
    if "all_gold" in extra:
        recall = scores[f"recall@{max(ks)}"]
        scores["all_gold"] = np.where(np.isnan(recall), np.nan, recall == 1)
    return scores


def _descending_scores(prediction: Prediction, row: int, depth: int) -> dict[str, float]:
    ranking = prediction["ranking"]
    repeated = [passage for passage, count in Counter(ranking).items() if count > 1]
    if repeated:
        raise ValueError(
            f"row {row} (question {prediction['question']!r}): the ranking names passage {repeated[0]!r} twice; "
            "rank each passage once"
        )
    return {passage: float(depth - rank) for rank, passage in enumerate(ranking[:depth])}
