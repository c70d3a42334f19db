"""Finding repeated ids in a corpus of any size, in little memory."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


class SeenIds:
    """The 64-bit hashes of all ids so far: 8 bytes an id, and up to 20 for the moment in which runs are merged.

    Hashes are kept as sorted runs, each at least twice as long as the next, so that an id is compared with few runs.
    Equal ids are always found. Different ids have the same hash with a chance of about n² / 2^65 in all (one in 80,000
    for 21 million), and other hashes in the next process.
    """

    def __init__(self) -> None:
        self._runs: list[NDArray[np.uint64]] = []

    def add(self, ids: Sequence[str]) -> list[int]:
        """Add ids.

        Args:
            ids: The next ids of the corpus; the more at once, the faster.

        Returns:
            The positions in `ids` of those that were probably added before, or stand in `ids` before, ascending.
        """
        if not ids:
            return []
        hashes = np.fromiter((hash(id) for id in ids), np.int64, len(ids)).view(np.uint64)
        order = np.argsort(hashes, kind="stable")
        run = hashes[order]
        repeated = np.zeros(len(run), bool)
        repeated[1:] = run[1:] == run[:-1]
        for earlier in self._runs:
            places = np.minimum(np.searchsorted(earlier, run), len(earlier) - 1)
            repeated |= earlier[places] == run
        self._keep(run)
        return sorted(order[repeated].tolist())

    def _keep(self, run: NDArray[np.uint64]) -> None:
        while self._runs and len(self._runs[-1]) < 2 * len(run):
            run = np.concatenate([self._runs.pop(), run])
            run.sort(kind="stable")  # merges sorted runs in linear time
        self._runs.append(run)
