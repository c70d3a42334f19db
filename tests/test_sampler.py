"""The order of the rows, alone and behind accelerate's data loader."""

from collections import Counter

import pytest
import torch
from accelerate import Accelerator
from accelerate.data_loader import prepare_data_loader
from torch.utils.data import DataLoader

from dro_trl.sampler import EstimationSampler, random_generator


def test_order_without_shuffle_worked_by_hand():
    """Seven rows in chunks of three, each twice; the first two rows fill the last chunk."""
    sampler = EstimationSampler(7, chunk=3, repeats=2, shuffle=False)
    assert list(sampler) == [0, 1, 2, 0, 1, 2, 3, 4, 5, 3, 4, 5, 6, 0, 1, 6, 0, 1]
    assert len(sampler) == 18
    assert sampler.num_repeated == 2


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
        sampler = EstimationSampler(50, chunk=10, seed=seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert order(1, 0) == order(1, 0) != list(range(50))
    orders = [order(seed, epoch) for seed in (1, 2) for epoch in (0, 1, 2)]
    assert len({tuple(o) for o in orders}) == 6
    sampler = EstimationSampler(50, chunk=10, seed=1)
    assert list(sampler) == list(sampler)


def test_epochs_reach_the_sampler_through_accelerate():
    """Of a prepared loader, epoch 1 has another order than epoch 0, each the one of the bare sampler."""
    sampler = EstimationSampler(10, chunk=4, seed=5)
    loader = Accelerator().prepare(DataLoader(range(10), batch_size=4, sampler=sampler, collate_fn=list))
    seen = []
    for epoch in (0, 1):
        loader.set_epoch(epoch)
        seen.append([row for batch in loader for row in batch])
        bare = EstimationSampler(10, chunk=4, seed=5)
        bare.set_epoch(epoch)
        assert seen[epoch] == list(bare)
    assert seen[0] != seen[1]


def test_two_processes_share_each_chunk():
    """Of a chunk of six, process 0 takes the first three rows and process 1 the rest, in every epoch and repeat."""

    def batches(process: int, epoch: int) -> list[list[int]]:
        sampler = EstimationSampler(14, chunk=6, repeats=2, seed=5)
        loader = DataLoader(range(14), batch_size=3, sampler=sampler, collate_fn=list)
        shard = prepare_data_loader(
            loader, num_processes=2, process_index=process, put_on_device=False, rng_types=[], even_batches=True
        )
        shard.set_epoch(epoch)
        return list(map(list, shard))

    for epoch in (0, 1):
        first, second = batches(0, epoch), batches(1, epoch)
        bare = EstimationSampler(14, chunk=6, repeats=2, seed=5)
        bare.set_epoch(epoch)
        assert [row for pair in zip(first, second, strict=True) for half in pair for row in half] == list(bare)
    assert batches(0, 0) != batches(0, 1)


def test_random_generators_depend_on_their_three_keys():
    def numbers(*key) -> list[float]:
        return torch.rand(3, generator=random_generator(*key)).tolist()

    assert numbers(0, 1, "a") == numbers(0, 1, "a")
    assert (
        len({tuple(numbers(*key)) for key in [(0, 1, "a"), (1, 1, "a"), (0, 2, "a"), (0, 1, "b"), (1, 0, "a")]}) == 5
    )
