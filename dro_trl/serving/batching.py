"""Requests that arrive together are read together, in one thread that has the models to itself."""

import asyncio
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any


class BusyError(RuntimeError):
    """As many requests are waiting as may."""


@dataclass(frozen=True)
class _Job:
    key: Hashable
    item: Any
    found: "asyncio.Future[Any]"


class Batcher:
    """Collects what is asked for while the models are at work, and a moment longer where they are idle.

    Args:
        run: Returns a result for each of several items of one key; called in a thread of its own.
        max_batch: Items that are collected at most.
        max_waiting: Items that may wait.
        patience: Seconds for which the first of a batch waits for others.
    """

    def __init__(
        self,
        run: Callable[[Hashable, list[Any]], Sequence[Any]],
        max_batch: int = 32,
        max_waiting: int = 256,
        patience: float = 0.005,
    ) -> None:
        self._run = run
        self._max_batch, self._max_waiting, self._patience = max_batch, max_waiting, patience
        self._queue: asyncio.Queue[_Job] = asyncio.Queue()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="models")
        self.waiting = 0
        """Items whose results are not there yet."""

    async def submit(self, key: Hashable, item: Any) -> Any:
        """Return the result for an item, which is found together with those of the same key.

        Raises:
            BusyError: If too many are waiting.
        """
        if self.waiting >= self._max_waiting:
            raise BusyError(f"{self.waiting} requests are waiting already; try again later")
        job = _Job(key, item, asyncio.get_running_loop().create_future())
        self._queue.put_nowait(job)
        self.waiting += 1
        try:
            return await job.found
        finally:
            self.waiting -= 1

    async def work(self) -> None:
        """Take what is waiting, batch by batch, until the task is cancelled."""
        try:
            while True:
                batch = [await self._queue.get()]
                await asyncio.sleep(self._patience)
                while len(batch) < self._max_batch and not self._queue.empty():
                    batch.append(self._queue.get_nowait())
                for key in dict.fromkeys(job.key for job in batch):
                    await self._find([job for job in batch if job.key == key])
        finally:
            self._thread.shutdown(wait=False, cancel_futures=True)

    async def _find(self, jobs: list[_Job]) -> None:
        items = [job.item for job in jobs]
        try:
            found = await asyncio.get_running_loop().run_in_executor(self._thread, self._run, jobs[0].key, items)
        except ValueError as error:
            if len(jobs) == 1:
                _fail(jobs, error)
                return
            for job in jobs:  # The fault of one is not the others'.
                await self._find([job])
        except Exception as error:
            _fail(jobs, error)
        else:
            for job, result in zip(jobs, found, strict=True):
                if not job.found.done():
                    job.found.set_result(result)


def _fail(jobs: list[_Job], error: Exception) -> None:
    for job in jobs:
        if not job.found.done():
            job.found.set_exception(error)
