"""What the processes of a training step send one another, as formulas of sizes, and what it adds to the step's time.

Collectives are counted as rings make them: to gather or to reduce and scatter S bytes over P processes, each receives
S (P - 1) / P; to reduce S bytes for all, twice that (Patarasu and Yuan, 2009; ZeRO, Rajbhandari et al., 2020, section
7).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dro_trl.recipes.estimates.quantities import Backend


@dataclass(frozen=True)
class Exchanged:
    """One of the two models, as far as processes exchange it."""

    weights: float
    """Bytes of all its weights, frozen ones too, as they are gathered."""
    trained: float
    """Bytes of those that are trained, and of their gradients."""
    passes: float
    """Forward and backward passes of a micro-step, before each of which sharded weights are gathered."""


def exchanged_bytes(backend: Backend, micro_steps: int, models: Sequence[Exchanged]) -> dict[str, float]:
    """Return what a process receives in an optimizer step, in bytes, by what it is for.

    Args:
        backend: DDP reduces gradients for all once a step; ZeRO-1 reduces and scatters them once, ZeRO-2, ZeRO-3 and
            FSDP2 after each backward pass; ZeRO-1 and 2 gather the new weights once a step, ZeRO-3 and FSDP2 all
            weights before each pass.
        micro_steps: Backward passes of an optimizer step.
        models: The selector and the generator.
    """
    part, stage = (backend.processes - 1) / backend.processes, backend.stage
    trained = part * sum(model.trained for model in models)
    gathered = part * sum(model.weights * model.passes for model in models)
    return {
        "weights": micro_steps * gathered if stage == 3 else trained if stage else 0.0,
        "gradients": trained * (2 if not stage else 1 if stage == 1 else micro_steps),
    }


def divided_time(computing: float, received: float, bandwidth: float | None) -> dict[str, Any]:
    """Return the seconds of a step between the exchange hidden behind the work and none of it, and what binds.

    Args:
        computing: Seconds of the work alone.
        received: Bytes that a process receives.
        bandwidth: Bytes a second that it can receive while all others do, None where that is not known.
    """
    if bandwidth is None:
        return {"exchanging": None, "least": computing, "most": None, "binds": None}
    exchanging = received / bandwidth
    return {
        "exchanging": exchanging,
        "least": max(computing, exchanging),
        "most": computing + exchanging,
        "binds": "computing" if computing >= exchanging else "the exchange",
    }
