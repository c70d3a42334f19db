"""Processes that make the selector's inputs of the next batches while this one trains.

They are not forked off the trainer's process: a fork takes one thread along, and what the others hold, such as those
of gloo, DeepSpeed and a JVM, stays held in it for ever. They come from a process of their own that has but one thread,
get what they need in pickled form, import nothing of the program that trains, and end with the trainer however that
ends.
"""

import copy
import io
import logging
import multiprocessing
import os
import pickle
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.context import BaseContext, ForkServerContext, ForkServerProcess, SpawnContext, SpawnProcess
from types import FunctionType, ModuleType
from typing import Any

from torch.utils.data import get_worker_info

from dro_trl.names import starting_safely
from dro_trl.policies.base import SelectionPolicy
from dro_trl.types import Question

logger = logging.getLogger(__name__)

_PRELOADED = "dro_trl.trainer.worker_start"


@dataclass
class ReadAhead:
    """A batch of B questions, and what the selector reads of them, on the CPU until it is used."""

    rows: list[Question]
    pickled: bytes
    """What the policy's `encode` makes of the rows: tensors in shared memory would hold a file each until then."""

    @property
    def inputs(self) -> Any:
        """What the policy's `encode` makes of the rows."""
        return pickle.loads(self.pickled)  # A worker of this process wrote it.


@dataclass
class Collator:
    """Hands batches on as they are, but encodes the training questions of a batch that a worker prepares.

    Args:
        dataset: The training rows, of which batches hold the numbers.
        policy: Encodes them.
        ahead: Whether batches are trained on as they come. Those of an estimation step are not.
    """

    dataset: Any
    policy: SelectionPolicy
    ahead: bool

    def __call__(self, batch: Sequence[Any]) -> Any:
        """Return a batch of one `ReadAhead` in a worker, else what was given."""
        if get_worker_info() is None or not self.ahead or not isinstance(batch[0], int):
            return batch
        rows = [self.dataset[i] for i in batch]
        return [ReadAhead(rows, pickle.dumps(self.policy.encode(rows)))]

    def __getstate__(self) -> dict[str, Any]:
        """Return what goes to a worker: weights stay here, since the trained ones are of use to nobody else."""
        policy = self.policy
        if policy.score_weights is not None:
            policy = copy.copy(policy)
            vars(policy)["score_weights"] = None
        return {**vars(self), "policy": policy}


class _Pickler(pickle.Pickler):
    """Refuses what only the program that trains defines."""

    def persistent_id(self, obj: Any) -> None:
        if isinstance(obj, (type, FunctionType)) and obj.__module__ == "__main__":
            raise pickle.PicklingError(
                f"{obj.__qualname__} is defined in the program itself, which they do not import; put it in a module"
            )


def useful_workers(collator: Collator, num_workers: int, start_method: str | None) -> int:
    """Return how many workers are worth starting, and say why where that is none.

    Args:
        collator: What they are to do.
        num_workers: How many are asked for.
        start_method: `"fork"` sends them nothing.
    """
    if not num_workers:
        return 0
    if not collator.ahead:
        why = "samples are used more than once (steps_per_estimation, num_iterations), and nothing is encoded ahead"
    elif start_method == "fork":
        return num_workers
    else:
        try:
            _Pickler(io.BytesIO()).dump(collator)
            return num_workers
        except Exception as error:  # What an object of a user's raises when it is pickled is its own affair.
            why = f"they cannot be sent what they need ({' '.join(f'{type(error).__name__}: {error}'.split())})"
    logger.warning(f"dataloader_num_workers={num_workers}: no worker is started, which changes no number: {why}")
    return 0


def worker_context(start_method: str | None) -> BaseContext:
    """Return what workers are started in: `"fork"`, `"spawn"`, or `"forkserver"`, as where None."""
    if start_method == "fork":
        return multiprocessing.get_context("fork")
    return _SpawnContext() if start_method == "spawn" else _ForkServerContext()


@contextmanager
def _without_main() -> Iterator[None]:
    """Have processes that are started import nothing of the program: it may train as soon as it is imported."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _end_with(parent: Any) -> None:
    parent.join()
    os._exit(1)


class _Worker:
    """A process that ends with the one that started it, which DataLoader sees to where it is the parent alone."""

    def start(self) -> None:
        multiprocessing.set_forkserver_preload([_PRELOADED])
        with starting_safely(), _without_main():
            super().start()  # type: ignore[misc]

    def run(self) -> None:
        threading.Thread(target=_end_with, args=(multiprocessing.parent_process(),), daemon=True).start()
        super().run()  # type: ignore[misc]


class _SpawnedWorker(_Worker, SpawnProcess):
    pass


class _SpawnContext(SpawnContext):
    Process = _SpawnedWorker


class _ForkedWorker(_Worker, ForkServerProcess):
    pass


class _ForkServerContext(ForkServerContext):
    Process = _ForkedWorker
