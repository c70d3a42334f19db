"""Simulated systems over the same questions."""

from collections.abc import Callable

import numpy as np
import pytest

from dro_trl.evaluation.scores import Prediction

MakeSystem = Callable[..., list[Prediction]]


@pytest.fixture
def make_system() -> MakeSystem:
    """A function that simulates a system: the gold passage first, and the right answer, with given probabilities."""

    def make(seed: int, gold_first: float, right: float, n: int = 60, gold_every: int = 1) -> list[Prediction]:
        rng = np.random.default_rng(seed)
        return [
            Prediction(
                question=f"Question {i}?",
                answers=["Paris"],
                gold_ids=["gold"] if i % gold_every == 0 else None,
                ranking=["gold", "other"] if rng.random() < gold_first else ["other", "gold"],
                answer="Paris" if rng.random() < right else "Rome",
            )
            for i in range(n)
        ]

    return make
