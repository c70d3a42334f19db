"""Repeated ids are found as a set would find them, in a few bytes an id."""

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from dro_trl.retrieval.seen_ids import SeenIds


@given(st.lists(st.lists(st.integers(0, 30).map(str), max_size=8), max_size=12))
def test_finds_what_a_set_finds(batches):
    seen, exact = SeenIds(), set()
    for batch in batches:
        expected = []
        for position, id in enumerate(batch):
            if id in exact:
                expected.append(position)
            exact.add(id)
        assert seen.add(batch) == expected


def test_memory_per_id():
    """8 bytes are kept, and no more than 20 are used for a moment (and 60 for each id of the batch being added)."""
    batches, size = 20, 10_000
    seen = SeenIds()
    tracemalloc.start()
    for number in range(batches):
        assert seen.add([f"passage-{id}" for id in range(number * size, (number + 1) * size)]) == []
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    ids = batches * size
    assert 8 <= kept / ids < 8.5
    assert peak < 20.5 * ids + 200 * size
