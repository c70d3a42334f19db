"""Bootstrap intervals."""

import warnings
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import DegenerateDataWarning, bootstrap

# Bounds the memory of one block of resamples (and of BCa's jackknife) to about 32 MB of float64.
_BLOCK_ELEMENTS = 4_000_000


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
