"""The order of the rows, alone and behind accelerate's data loader."""

from collections import Counter

import pytest
import torch
from accelerate.data_loader import prepare_data_loader
from torch.utils.data import DataLoader

from dro_trl.policies.randomness import random_generator
from dro_trl.trainer.sampler import EstimationSampler, rows_of_estimation


def test_order_without_shuffle_worked_by_hand():
    """Seven rows in chunks of three, each twice; the first two rows fill the last chunk."""
    sampler = EstimationSampler(7, chunk=3, repeats=2, shuffle=False)
    assert list(sampler) == [0, 1, 2, 0, 1, 2, 3, 4, 5, 3, 4, 5, 6, 0, 1, 6, 0, 1]
    assert len(sampler) == 18
    assert sampler.num_repeated == 2


def test_an_estimation_step_is_of_a_pass_at_most():
    assert [rows_of_estimation(7, 2, steps) for steps in (1, 3, 4)] == [2, 6, 8]
    assert rows_of_estimation(4, 64, 1) == 64  # Filled up with the same four.
    with pytest.raises(
        ValueError, match=r"^steps_per_estimation=5 is more than the 4 optimizer steps, of 2 questions "
    ):
        rows_of_estimation(7, 2, 5)
    with pytest.raises(
        ValueError, match=r"^an optimizer step of 10000 questions would visit each of the 4 .* 2500 times"
    ):
        rows_of_estimation(4, 10_000, 1)


@pytest.mark.parametrize(("rows", "chunk", "repeats"), [(12, 4, 1), (13, 4, 3), (2, 5, 2), (1, 1, 1), (5, 5, 2)])
def test_every_row_is_visited(rows, chunk, repeats):
    """Each row `repeats` times, those that fill the last chunk once more; chunks come back unchanged."""
    sampler = EstimationSampler(rows, chunk, repeats, seed=3)
    order = list(sampler)
    assert len(order) == len(sampler)
    counts = Counter(order)
    assert set(counts) == set(range(rows))
    assert sum(counts.values()) == repeats * (rows + sampler.num_repeated)
    assert all(count % repeats == 0 and count >= repeats for count in counts.values())
    assert max(counts.values()) - min(counts.values()) <= repeats * -(-sampler.num_repeated // rows)
    blocks = [order[i : i + chunk] for i in range(0, len(order), chunk)]
    for i in range(0, len(blocks), repeats):
        assert blocks[i : i + repeats] == [blocks[i]] * repeats


def test_order_depends_on_seed_and_epoch_alone():
    def order(seed: int, epoch: int) -> list[int]:
        torch.manual_seed(torch.seed())
        return list(EstimationSampler(50, chunk=10, seed=seed, epoch=lambda: epoch))

    assert order(1, 0) == order(1, 0) != list(range(50))
    orders = [order(seed, epoch) for seed in (1, 2) for epoch in (0, 1, 2)]
    assert len({tuple(o) for o in orders}) == 6


def test_the_epoch_is_asked_for_at_each_iteration():
    epoch = 0
    sampler = EstimationSampler(10, chunk=5, seed=1, epoch=lambda: epoch)
    first = list(sampler)
    epoch = 1
    assert list(sampler) == list(EstimationSampler(10, chunk=5, seed=1, epoch=lambda: 1)) != first


def batches_of(process: int, processes: int, size: int, **options) -> list[list[int]]:
    """What a process is given by accelerate's loader, in batches of `size`."""
    sampler = EstimationSampler(num_processes=processes, **options)
    loader = DataLoader(range(sampler.num_rows), batch_size=size, sampler=sampler, collate_fn=list)
    shard = prepare_data_loader(
        loader, num_processes=processes, process_index=process, put_on_device=False, rng_types=[], even_batches=True
    )
    return list(map(list, shard))


@pytest.mark.parametrize("slices", [1, 2, 3])
def test_a_step_trains_on_the_same_rows_whatever_the_number_of_processes(slices):
    """Each process takes its part of a chunk at once; micro-batch after micro-batch the parts make up one order."""
    size, options = 2, {"num_rows": 50, "chunk": 8 * slices, "repeats": slices, "slices": slices, "seed": 5}

    def steps(processes: int) -> list[set[int]]:
        per_process = 8 // processes
        parts = [batches_of(i, processes, per_process * slices, **options) for i in range(processes)]
        return [
            {row for part in round_ for row in part[at * per_process : (at + 1) * per_process]}
            for round_ in zip(*parts, strict=True)
            for at in range(slices)
        ]

    assert steps(1) == steps(2) == steps(8 // size)
    assert all(len(step) == 8 for step in steps(1)[: slices * slices])


def test_random_generators_depend_on_their_three_keys():
    def numbers(*key) -> list[float]:
        return torch.rand(3, generator=random_generator(*key)).tolist()

    assert numbers(0, 1, "a") == numbers(0, 1, "a")
    assert (
        len({tuple(numbers(*key)) for key in [(0, 1, "a"), (1, 1, "a"), (0, 2, "a"), (0, 1, "b"), (1, 0, "a")]}) == 5
    )
