"""What processes send one another, counted by hand."""

import pytest

from dro_trl.recipes.estimates.exchange import Exchanged, divided_time, exchanged_bytes
from dro_trl.recipes.estimates.quantities import Backend

FULL = [Exchanged(16, 16, 2), Exchanged(16, 16, 2)]
"""Two models of 16 bytes, of which everything is trained."""
LORA = [Exchanged(18, 2, 2), Exchanged(16, 0, 1)]
"""One with an adapter of 2 bytes on 16, and a frozen one, which has no backward pass."""


@pytest.mark.parametrize(
    ("name", "processes", "micro_steps", "models", "weights", "gradients"),
    [
        ("one process", 1, 4, FULL, 0, 0),
        ("DDP", 8, 4, FULL, 0, 2 * 32 * 7 / 8),  # One all-reduce, however many micro-steps.
        ("ZeRO-1", 8, 4, FULL, 32 * 7 / 8, 32 * 7 / 8),
        ("ZeRO-2", 8, 4, FULL, 32 * 7 / 8, 4 * 32 * 7 / 8),
        ("ZeRO-3", 8, 1, FULL, 2 * 32 * 7 / 8, 32 * 7 / 8),  # ZeRO's 3 times the weights, in all.
        ("FSDP2", 64, 2, FULL, 2 * 2 * 32 * 63 / 64, 2 * 32 * 63 / 64),
        ("ZeRO-3", 4, 1, LORA, (18 * 2 + 16) * 3 / 4, 2 * 3 / 4),
        ("DDP", 4, 1, LORA, 0, 2 * 2 * 3 / 4),
    ],
)
def test_bytes_that_a_process_receives(name, processes, micro_steps, models, weights, gradients):
    found = exchanged_bytes(Backend(name, processes), micro_steps, models)
    assert found == pytest.approx({"weights": weights, "gradients": gradients})


def test_what_binds():
    assert divided_time(3, 40, 20) == {"exchanging": 2, "least": 3, "most": 5, "binds": "computing"}
    assert divided_time(1, 40, 20) == {"exchanging": 2, "least": 2, "most": 3, "binds": "the exchange"}
    assert divided_time(1, 40, None) == {"exchanging": None, "least": 1, "most": None, "binds": None}
