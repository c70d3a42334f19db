"""Systems compared on the same questions, with bootstrap intervals."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dro_trl.evaluation.bootstrap import mean_interval
from dro_trl.evaluation.groups import Column, Value
from dro_trl.evaluation.scores import Prediction, Scores, score_predictions


@dataclass(frozen=True)
class Comparison:
    """The mean difference of one metric between a system and a baseline on the same questions."""

    system: str
    baseline: str
    metric: str
    delta: float
    """Mean of (system - baseline) over the questions; positive where the system is better."""
    ci95: list[float] | None
    """95 % paired bootstrap interval of `delta`, [low, high]; None for fewer than two questions."""
    method: Literal["BCa", "percentile"] | None
    """How the interval was made: percentile where BCa is undefined, as when all differences are equal."""
    n: int
    """Questions compared."""
    seed: int
    n_resamples: int

    @property
    def significant(self) -> bool:
        """Whether the interval excludes zero."""
        return self.ci95 is not None and not self.ci95[0] <= 0 <= self.ci95[1]


@dataclass(frozen=True)
class Compared:
    """The scores of several systems on the same questions, and the differences between them."""

    systems: dict[str, dict[str, float | int | None]]
    """Per system: the mean of every metric (None where no question has it), `n` and `n_with_gold`."""
    systems_ci95: dict[str, dict[str, list[float] | None]]
    """Per system and metric: the 95 % bootstrap interval of the mean, [low, high]."""
    comparisons: list[Comparison]
    """The target against each baseline, in every metric that some question has."""


@dataclass(frozen=True)
class Group(Compared):
    """The same of those questions alone that have one value in a column."""

    value: Value
    """None where the column holds nothing."""


@dataclass(frozen=True)
class EvaluationReport(Compared):
    """The same of all questions, and of each group of them."""

    by: str | None = None
    """The column by which they are grouped."""
    groups: list[Group] = field(default_factory=list)
    """In the order of their values."""


def compare(
    systems: Mapping[str, Sequence[Prediction]],
    *,
    target: str,
    baselines: Sequence[str],
    ks: Sequence[int],
    seed: int,
    n_resamples: int = 10_000,
    extra_metrics: Collection[str] = (),
    by: Column | None = None,
) -> EvaluationReport:
    """Score all systems and compare the target with each baseline, question by question.

    Args:
        systems: Predictions per system, all over the same questions in the same order.
        target: Name of the system to compare.
        baselines: Names of the systems to compare it with.
        ks: Depths for recall@k and nDCG@k; the largest also cuts the MRR.
        seed: Seed of the bootstrap.
        n_resamples: Number of bootstrap resamples.
        extra_metrics: As `extra` of `score_predictions`.
        by: What the questions are grouped by, if they are; `"all_gold"` is among the metrics then.

    Returns:
        Means, differences and their 95 % intervals, of all questions and of each group.

    Raises:
        ValueError: A name is unknown, the target is its own baseline, there are no predictions, or the systems differ
            in their questions, answers, gold passages, or in how many passages they rank, or from `by` in how many
            questions there are.
    """
    _check_names(systems, target, baselines)
    _check_rows(systems, depth=max(ks, default=1))
    if by is not None:
        _check_column(by, systems)
        extra_metrics = {*extra_metrics, "all_gold"}
    scores = {name: score_predictions(predictions, ks, extra_metrics) for name, predictions in systems.items()}
    with_gold = np.array([bool(prediction["gold_ids"]) for prediction in systems[target]])
    parts = partial(_compared, target=target, baselines=baselines, seed=seed, n_resamples=n_resamples)
    if by is None:
        return EvaluationReport(*parts(scores, with_gold))
    groups = [Group(*parts(_part(scores, rows), with_gold[rows]), value) for value, rows in by.groups()]
    return EvaluationReport(*parts(scores, with_gold), by.name, groups)


def _part(scores: dict[str, Scores], rows: list[int]) -> dict[str, Scores]:
    return {name: {metric: values[rows] for metric, values in system.items()} for name, system in scores.items()}


def _compared(
    scores: dict[str, Scores],
    with_gold: NDArray[np.bool_],
    target: str,
    baselines: Sequence[str],
    seed: int,
    n_resamples: int,
) -> tuple[dict[str, dict[str, float | int | None]], dict[str, dict[str, list[float] | None]], list[Comparison]]:
    """Return the fields of `Compared`."""
    intervals = {
        name: {
            metric: mean_interval(_scored(values), seed=seed, n_resamples=n_resamples).ci95
            for metric, values in system.items()
        }
        for name, system in scores.items()
    }
    comparisons = [
        _difference(scores, target, baseline, metric, seed, n_resamples)
        for baseline in baselines
        for metric, values in scores[target].items()
        if len(_scored(values - scores[baseline][metric]))
    ]
    means = {name: _means(system, with_gold) for name, system in scores.items()}
    return means, intervals, comparisons


def _difference(
    scores: dict[str, Scores], system: str, baseline: str, metric: str, seed: int, n_resamples: int
) -> Comparison:
    differences = _scored(scores[system][metric] - scores[baseline][metric])
    ci95, method = mean_interval(differences, seed=seed, n_resamples=n_resamples)
    delta = float(differences.mean())
    return Comparison(system, baseline, metric, delta, ci95, method, len(differences), seed, n_resamples)


def _means(scores: Scores, with_gold: NDArray[np.bool_]) -> dict[str, float | int | None]:
    means: dict[str, float | int | None] = {}
    for metric, values in scores.items():
        scored = _scored(values)
        means[metric] = float(scored.mean()) if len(scored) else None
    return means | {"n": len(scores["em"]), "n_with_gold": int(with_gold.sum())}


def _scored(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return values[~np.isnan(values)]


def _check_names(systems: Mapping[str, Sequence[Prediction]], target: str, baselines: Sequence[str]) -> None:
    for role, name in [("target", target), *(("baseline", name) for name in baselines)]:
        if name not in systems:
            raise ValueError(f"{role} {name!r} is not among the systems {list(systems)}; name one of them")
    if target in baselines:
        raise ValueError(f"target {target!r} is also among the baselines {list(baselines)}; remove it there")


def _check_column(by: Column, systems: Mapping[str, Sequence[Prediction]]) -> None:
    first, predictions = next(iter(systems.items()))
    if len(by.values) != len(predictions):
        raise ValueError(
            f"column {by.name!r} has {len(by.values)} values and system {first!r} has {len(predictions)} predictions; "
            "give one value a question"
        )


def _check_rows(systems: Mapping[str, Sequence[Prediction]], depth: int) -> None:
    (first, reference), *others = systems.items()
    if not reference:
        raise ValueError(f"system {first!r} has no predictions; give at least one question")
    for name, predictions in others:
        for row, (expected, found) in enumerate(zip(reference, predictions, strict=False)):
            _check_pair(row, (first, expected), (name, found), depth)
        if len(predictions) != len(reference):
            raise ValueError(
                f"row {min(len(predictions), len(reference))}: system {first!r} has {len(reference)} predictions and "
                f"system {name!r} has {len(predictions)}; compare systems on the same questions in the same order"
            )


def _check_pair(row: int, first: tuple[str, Prediction], second: tuple[str, Prediction], depth: int) -> None:
    (name, expected), (other, found) = first, second
    for key in ("question", "answers", "gold_ids"):
        if expected[key] != found[key]:
            raise ValueError(
                f"row {row}, field {key!r}: system {name!r} has {expected[key]!r} and system {other!r} has "
                f"{found[key]!r}; compare systems on the same questions in the same order"
            )
    ranked, other_ranked = len(expected["ranking"]), len(found["ranking"])
    # A system without retrieval ranks nothing and has no recall; any other difference would favour the longer list.
    if ranked and other_ranked and min(ranked, depth) != min(other_ranked, depth):
        raise ValueError(
            f"row {row}, field 'ranking': system {name!r} ranks {ranked} passages and system {other!r} ranks "
            f"{other_ranked}, which is no fair comparison at depth {depth}; "
            f"lower the largest of ks to {min(ranked, other_ranked)}, or let both rank {depth}"
        )
