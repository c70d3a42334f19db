"""The order in which questions are visited, and the random numbers that each is given."""

import logging
from collections.abc import Callable, Iterator
from typing import Self

import torch
from accelerate.state import GradientState
from torch.utils.data import Sampler

from dro_trl.trainer.dro_config import DROConfig

logger = logging.getLogger(__name__)


class EstimationSampler(Sampler[int]):
    """Visits the rows in chunks, each `repeats` times in a row, in an order that depends on seed and epoch alone.

    A chunk is what one estimation step samples for; it comes back once for each step that uses those samples. Where
    the rows do not fill the last chunk, it is filled with the first rows of the same epoch, so that none is left out.

    Args:
        num_rows: Number of rows, at least 1.
        chunk: Rows in a chunk, over all processes.
        repeats: How often a chunk is visited.
        slices: Micro-batches in a process's part of a chunk.
        num_processes: Processes that take a part of a chunk each, one after the other.
        shuffle: Whether to shuffle the rows in each epoch.
        seed: Of the shuffle.
        epoch: Says which epoch an iteration is for.
    """

    def __init__(
        self,
        num_rows: int,
        chunk: int,
        repeats: int = 1,
        slices: int = 1,
        num_processes: int = 1,
        shuffle: bool = True,
        seed: int = 0,
        epoch: Callable[[], int] = lambda: 0,
    ) -> None:
        self.num_rows, self.chunk, self.repeats, self.shuffle, self.seed = num_rows, chunk, repeats, shuffle, seed
        self.slices, self.num_processes, self.epoch = slices, num_processes, epoch
        self.num_chunks = -(-num_rows // chunk)

    @classmethod
    def of_run(cls, args: DROConfig, num_rows: int, slices: int, num_processes: int, step: Callable[[], int]) -> Self:
        """Return the sampler of a training run, and warn where it visits questions twice in an epoch.

        Args:
            args: Its options.
            num_rows: Rows to train on.
            slices: Micro-batches in a process's part of a chunk.
            num_processes: As in the constructor.
            step: Says how many optimizer steps are done.
        """
        step_rows = args.train_batch_size * args.gradient_accumulation_steps * num_processes
        chunk = rows_of_estimation(num_rows, step_rows, args.steps_per_estimation)
        steps_in_epoch = -(-num_rows // chunk) * args.steps_per_estimation * args.num_iterations
        sampler = cls(
            num_rows,
            chunk,
            repeats=slices * args.num_iterations,
            slices=slices,
            num_processes=num_processes,
            seed=args.seed if args.data_seed is None else args.data_seed,
            epoch=lambda: step() // steps_in_epoch,
        )
        if sampler.num_repeated:
            logger.warning(
                f"{num_rows} questions do not fill {sampler.num_chunks} estimation steps of {chunk} questions: "
                f"{sampler.num_repeated} visits of each epoch are repeated ones"
            )
        return sampler

    @property
    def num_repeated(self) -> int:
        """How many rows fill up the last chunk."""
        return self.num_chunks * self.chunk - self.num_rows

    def __len__(self) -> int:
        return self.num_chunks * self.chunk * self.repeats

    def __iter__(self) -> Iterator[int]:
        order = list(range(self.num_rows))
        if self.shuffle:
            generator = torch.Generator().manual_seed(self.seed + 1_000_003 * self.epoch())
            order = torch.randperm(self.num_rows, generator=generator).tolist()
        order = [order[i % self.num_rows] for i in range(self.num_chunks * self.chunk)]
        for start in range(0, len(order), self.chunk):
            part = self._by_process(order[start : start + self.chunk])
            for _ in range(self.repeats):
                yield from part

    def _by_process(self, chunk: list[int]) -> list[int]:
        """Lay a chunk out so that a step trains on the same rows whatever the number of processes."""
        by_slice = torch.tensor(chunk).view(self.slices, self.num_processes, -1)
        order: list[int] = by_slice.transpose(0, 1).flatten().tolist()
        return order


def rows_of_estimation(num_rows: int, step: int, steps: int) -> int:
    """Return how many rows an estimation step samples for, over all processes.

    Args:
        num_rows: Rows to train on.
        step: Rows of an optimizer step, over all processes.
        steps: Optimizer steps between two estimation steps.

    Raises:
        ValueError: If these are more than a pass over the rows has, or a step is far more than the rows.
    """
    if step > 1000 * num_rows:
        raise ValueError(
            f"an optimizer step of {step} questions would visit each of the {num_rows} questions {step // num_rows} "
            "times; lower per_device_train_batch_size or gradient_accumulation_steps"
        )
    if steps > (most := -(-num_rows // step)):
        raise ValueError(
            f"steps_per_estimation={steps} is more than the {most} optimizer steps, of {step} questions each, that a "
            f"pass over the {num_rows} questions has; set it to {most} at most"
        )
    return steps * step


def num_counted(num_rows: int, batch_size: int, process: int, state: GradientState) -> int:
    """Return how many rows of an evaluation batch count: accelerate fills up the last ones with the first rows again.

    Args:
        num_rows: Rows in this process's batch.
        batch_size: Rows in a full one.
        process: Number of this process.
        state: Says whether the batch is the last, and how many rows of all processes' last batches are new.
    """
    if not state.end_of_dataloader or state.remainder <= 0:
        return num_rows
    counted: int = state.remainder - process * batch_size
    return min(num_rows, max(0, counted))
