"""Scores of methods over questions and seeds, and their paired differences with crossed bootstrap intervals."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dro_trl.evaluation.bootstrap import MANY

# Bounds the memory of one block of resamples to about 32 MB of float64.
_BLOCK_ELEMENTS = 4_000_000

LABELS = {"em": "EM", "f1": "F1"}

BOOTSTRAP = (
    "For each metric the differences make a table, one row a training seed, one column a held-out question: the first "
    "system's score minus the second's, from runs of the same seed on the same question (a system that is not trained "
    "has the same score in every row). Questions and seeds are resampled with replacement, independently of each "
    "other, and the table's mean is taken over each resample; the interval holds the middle 95 % of these means."
)


@dataclass(frozen=True)
class SeededComparison:
    """The mean difference of one metric between two systems, over the same questions and seeds."""

    system: str
    baseline: str
    metric: str
    delta: float
    """Mean of (system - baseline); positive where the system is better."""
    ci95: list[float] | None
    """95 % interval of `delta`, [low, high]; None for fewer than two questions."""
    n: int
    """Questions compared."""
    seeds: list[int]
    """Training seeds compared."""
    seed: int
    """Of the bootstrap."""
    n_resamples: int

    @property
    def verdict(self) -> Literal["better", "worse", "not told apart"]:
        """What the interval says of the system."""
        if self.ci95 is None or self.ci95[0] <= 0 <= self.ci95[1]:
            return "not told apart"
        return "better" if self.delta > 0 else "worse"

    @property
    def sentence(self) -> str:
        """The verdict in words, with the figures."""
        metric = LABELS.get(self.metric, self.metric)
        said = {
            "better": f"{self.system} is better than {self.baseline} in {metric}",
            "worse": f"{self.system} is worse than {self.baseline} in {metric}",
            "not told apart": f"{self.system} and {self.baseline} are not told apart in {metric}",
        }[self.verdict]
        if self.ci95 is None:
            return f"{said}: {self.delta:+.3f}, too few questions for an interval."
        return f"{said}: {self.delta:+.3f} [{self.ci95[0]:+.3f}, {self.ci95[1]:+.3f}]."


def crossed_interval(values: NDArray[np.float64], *, seed: int = 0, n_resamples: int = 10_000) -> list[float] | None:
    """Bootstrap the 95 % percentile interval of a mean over seeds and questions, resampling both (Owen 2007).

    Args:
        values: (num_seeds, num_questions), without NaN. With one seed, questions alone are resampled.
        seed: Of the resampling.
        n_resamples: Number of resamples.

    Returns:
        [low, high], or None for fewer than two questions.
    """
    num_seeds, num_questions = values.shape
    if num_questions < 2:
        return None
    blocks: Iterable[Resamples]
    if num_questions < MANY:
        blocks = _draws(num_seeds, num_questions, seed, n_resamples)
    else:  # Questions of the same scores are drawn as one.
        values, counts = np.unique(values, axis=1, return_counts=True)
        blocks = _draw(num_seeds, counts, seed, n_resamples)
    means = [((seeds @ values) * questions).sum(-1) / (num_seeds * num_questions) for seeds, questions in blocks]
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    return [float(low), float(high)]


Resamples = tuple[NDArray[np.integer], NDArray[np.integer]]
"""How often each of R resamples has each seed, (R, seeds), and each question, or each of several kinds, (R, kinds)."""


def _draw(num_seeds: int, counts: NDArray[np.integer], seed: int, n_resamples: int) -> Iterator[Resamples]:
    """Draw resamples in blocks, of kinds of questions of which there are `counts`."""
    rng, num_questions = np.random.default_rng(seed), int(counts.sum())
    block = max(1, _BLOCK_ELEMENTS // len(counts))
    for start in range(0, n_resamples, block):
        size = min(block, n_resamples - start)
        seeds = rng.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), size)
        yield seeds, rng.multinomial(num_questions, counts / num_questions, size)


@lru_cache(maxsize=2)
def _draws(num_seeds: int, num_questions: int, seed: int, n_resamples: int) -> list[Resamples]:
    """The same of single questions, which are those of any table of this size: most of an interval's time."""
    drawn = _draw(num_seeds, np.ones(num_questions, int), seed, n_resamples)
    return [(seeds, questions.astype(np.uint16)) for seeds, questions in drawn]


SeededScores = Mapping[int, NDArray[np.float64]]
"""Per training seed the score of every question, NaN where it has none."""


def compare_seeded(
    scores: Mapping[str, Mapping[str, SeededScores]],
    system: str,
    baseline: str,
    metric: str,
    *,
    seed: int = 0,
    n_resamples: int = 10_000,
) -> SeededComparison | None:
    """Compare two systems over the seeds that both have.

    Args:
        scores: Per system and metric. A system of the one seed -1 is not trained, and stands beside every seed.
        system: Name of the one.
        baseline: Name of the other.
        metric: Which score.
        seed: Of the bootstrap.
        n_resamples: Number of resamples.

    Returns:
        The comparison; None where they share no seed, or no question has the metric.
    """
    first, second = scores[system][metric], scores[baseline][metric]
    untrained = UNTRAINED in second
    seeds = sorted(first if untrained else first.keys() & second.keys())
    if not seeds:
        return None
    table = np.stack([first[s] - second[UNTRAINED if untrained else s] for s in seeds])
    table = table[:, ~np.isnan(table).any(0)]
    if not table.size:
        return None
    interval = crossed_interval(table, seed=seed, n_resamples=n_resamples)
    return SeededComparison(
        system, baseline, metric, float(table.mean()), interval, table.shape[1], seeds, seed, n_resamples
    )


UNTRAINED = -1
"""Stands for the seed of a system that is not trained."""


def summarise(scores: Mapping[str, SeededScores]) -> dict[str, Any]:
    """Return a system's mean of every metric, and `spread`: over its seeds the standard deviation, least and most.

    The standard deviation (with n - 1) is None for a single seed, as for a baseline that is not trained.
    """
    summary: dict[str, Any] = {}
    spread: dict[str, Any] = {}
    for metric, by_seed in scores.items():
        table = np.stack([by_seed[s] for s in sorted(by_seed)])
        table = table[:, ~np.isnan(table).any(0)]
        if not table.size:
            summary[metric] = None
            continue
        means = table.mean(1)
        summary[metric] = float(means.mean())
        spread[metric] = {
            "sd": float(means.std(ddof=1)) if len(means) > 1 else None,
            "min": float(means.min()),
            "max": float(means.max()),
            "ci95": crossed_interval(table),
            "by_seed": {str(s): float(mean) for s, mean in zip(sorted(by_seed), means, strict=True)},
        }
    return {**summary, "spread": spread}
