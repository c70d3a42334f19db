"""Requests that arrive together are read together, and each gets its own result."""

import asyncio
import threading

import pytest

from dro_trl.serving.batching import Batcher, BusyError


def gathered(run, submitted, **options):
    """Return the results, or errors, of items submitted at once."""

    async def main():
        batcher = Batcher(run, **options)
        worker = asyncio.create_task(batcher.work())
        found = await asyncio.gather(*(batcher.submit(*one) for one in submitted), return_exceptions=True)
        worker.cancel()
        return found

    return asyncio.run(main())


def test_items_of_one_key_are_read_together_and_in_one_thread():
    calls = []

    def run(key, items):
        calls.append((key, items, threading.current_thread().name))
        return [key * item for item in items]

    assert gathered(run, [(2, 1), (3, 1), (2, 5), (2, 7)], max_batch=8) == [2, 3, 10, 14]
    assert [(key, items) for key, items, _ in calls] == [(2, [1, 5, 7]), (3, [1])]
    assert len({name for *_, name in calls}) == 1
    assert threading.current_thread().name not in {name for *_, name in calls}
    calls.clear()
    assert gathered(run, [(2, i) for i in range(7)], max_batch=3) == [0, 2, 4, 6, 8, 10, 12]
    assert [len(items) for _, items, _ in calls] == [3, 3, 1]


def test_the_fault_of_one_is_not_the_others():
    def run(key, items):
        if "bad" in items:
            raise ValueError("bad is empty")
        return items

    found = gathered(run, [("k", item) for item in ("one", "bad", "two")])
    assert (found[0], found[2]) == ("one", "two")
    assert isinstance(found[1], ValueError)


def test_a_defect_is_told_to_all_and_the_next_are_served():
    def run(key, items):
        if key == "broken":
            raise RuntimeError("out of memory")
        return items

    found = gathered(run, [("broken", 1), ("broken", 2), ("fine", 3)])
    assert [str(error) for error in found[:2]] == ["out of memory"] * 2
    assert found[2] == 3


def test_more_than_may_wait_are_turned_away():
    found = gathered(lambda key, items: items, [("k", i) for i in range(4)], max_waiting=3)
    assert found[:3] == [0, 1, 2]
    assert isinstance(found[3], BusyError)
    with pytest.raises(BusyError, match="3 requests are waiting already"):
        raise found[3]
