"""Bootstrap intervals."""

import warnings
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri
from scipy.stats import DegenerateDataWarning, bootstrap

# Bounds the memory of one block of resamples (and of BCa's jackknife) to about 32 MB of float64.
_BLOCK_ELEMENTS = 4_000_000
MANY = 2_000
"""From so many values on they are resampled by how often each occurs, of which there are few, as scores are ratios of
small numbers. SciPy draws every value, and its jackknife takes time with the square of their number."""


class Interval(NamedTuple):
    """A 95 % bootstrap interval of a mean."""

    ci95: list[float] | None
    """[low, high]; None for fewer than two observations."""
    method: Literal["BCa", "percentile"] | None
    """Percentile where BCa is undefined, as when all observations are equal; None without an interval."""


def mean_interval(values: NDArray[np.float64], *, seed: int, n_resamples: int = 10_000) -> Interval:
    """Bootstrap the 95 % interval of a mean: BCa, or percentile where BCa is undefined.

    Given differences of paired observations, this is the paired bootstrap of the mean difference.

    Args:
        values: Shape (num_questions,), without NaN.
        seed: Seed of the resampling; the same seed and number of values give the same resamples.
        n_resamples: Number of resamples.

    Returns:
        The interval and its method.
    """
    if len(values) < 2:
        return Interval(None, None)
    if len(values) >= MANY:
        return _of_many(values, seed, n_resamples)
    methods: tuple[Literal["BCa", "percentile"], ...] = ("BCa", "percentile")
    for method in methods:
        with warnings.catch_warnings(), np.errstate(invalid="ignore"):
            warnings.simplefilter("ignore", DegenerateDataWarning)  # reported as the method instead
            interval = bootstrap(
                (values,),
                np.mean,
                n_resamples=n_resamples,
                batch=max(1, _BLOCK_ELEMENTS // len(values)),
                method=method,
                rng=np.random.default_rng(seed),
            ).confidence_interval
        if np.isfinite(interval).all():
            break
    return Interval([float(interval.low), float(interval.high)], method)


def _of_many(values: NDArray[np.float64], seed: int, n_resamples: int) -> Interval:
    """The same interval; a mean's jackknife needs no value to be left out (Efron and Tibshirani 1993, ch. 14)."""
    distinct, counts = np.unique(values, return_counts=True)
    mean = distinct @ counts / len(values)
    off = distinct - mean
    if not (spread := off**2 @ counts):
        return Interval([float(mean)] * 2, "percentile")
    rng, block = np.random.default_rng(seed), max(1, _BLOCK_ELEMENTS // len(counts))
    sizes = [min(block, n_resamples - start) for start in range(0, n_resamples, block)]
    drawn = (rng.multinomial(len(values), counts / len(values), size) @ distinct for size in sizes)
    means = np.concatenate(list(drawn)) / len(values)
    shift = ndtri(((means < mean).mean() + (means <= mean).mean()) / 2)
    skew = off**3 @ counts / spread**1.5 / 6
    ends = shift + ndtri([0.025, 0.975])
    shares = ndtr(shift + ends / (1 - skew * ends))
    if not np.isfinite(shares).all():
        return Interval([float(end) for end in np.quantile(means, [0.025, 0.975])], "percentile")
    return Interval([float(end) for end in np.quantile(means, shares)], "BCa")
