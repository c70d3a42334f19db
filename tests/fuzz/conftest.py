"""How many damaged inputs are tried."""

import os
from collections import Counter

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests.fuzz.outcomes import REFUSED, RIGHT

TIMES = int(os.environ.get("DRO_TRL_FUZZ", "10"))
"""With `-m slow`, so many times the inputs of the quick tests, and others each time."""


@pytest.fixture(params=["quick", pytest.param("long", marks=[pytest.mark.slow, pytest.mark.timeout(3600)])])
def explore(request):
    """Return what calls a check with a number of inputs; it returns `RIGHT` or `REFUSED`, or raises."""
    is_long = request.param == "long"

    def run(inputs, check, number):
        counts = Counter()

        def count(value):
            counts[check(value)] += 1

        settings(
            max_examples=number * TIMES if is_long else number,
            derandomize=not is_long,
            database=None,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        )(given(inputs)(count))()
        print(f"{request.node.name}: {counts.total():,} inputs, {dict(counts)}")
        assert set(counts) == {RIGHT, REFUSED}
        assert counts.total() >= number * 0.9

    return run
