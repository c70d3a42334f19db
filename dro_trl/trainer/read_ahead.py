"""The next batch prepared while this one trains, by the data loader's workers (`dataloader_num_workers`)."""

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch.utils.data import get_worker_info

from dro_trl.policies.base import SelectionPolicy
from dro_trl.types import Question


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
