"""Random draws that depend on a seed and on what they are for, not on batches or processes."""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from dro_trl.types import Question

_ORACLE, _RANDOM, _SHUFFLE = range(3)  # Streams of random numbers.


def random_generator(seed: int, draw: int, question: str) -> torch.Generator:
    """Return a generator that depends on these alone, not on the batch or the process that holds the question."""
    key = f"{seed}\0{draw}\0{question}".encode()
    return torch.Generator().manual_seed(int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big") >> 1)


def shuffled(rows: Sequence[Question], seed: int | None) -> tuple[Sequence[Question], list[list[int]]]:
    """Show each question's candidates in a random order that depends on the seed and the question alone.

    Args:
        rows: Questions with candidates.
        seed: Of the order; the candidates stay as they are where None.

    Returns:
        The rows, and for each of them the retriever's rank of each candidate, from 0.
    """
    if seed is None:
        return rows, [list(range(len(row["candidates"]))) for row in rows]
    orders = _random_orders(rows, seed, _SHUFFLE)
    shown = [
        Question(**{**row, "candidates": [row["candidates"][i] for i in order]})
        for row, order in zip(rows, orders, strict=True)
    ]
    return shown, orders


def _random_orders(rows: Sequence[Question], seed: int, stream: int) -> list[list[int]]:
    return [
        torch.randperm(len(row["candidates"]), generator=random_generator(seed, stream, row["question"])).tolist()
        for row in rows
    ]


def gumbel_noise(sizes: Sequence[int], shape: tuple[int, int], generators: Sequence[torch.Generator]) -> Tensor:
    """Return standard Gumbel noise for each of M selections over N items of B questions, (B, M, N) float64 on the CPU.

    Args:
        sizes: The items of each question. As many numbers are drawn as it has: the widest question of a batch must not
            change what the others draw.
        shape: M and N.
        generators: A generator for each question.
    """
    uniform = torch.zeros(len(sizes), *shape, dtype=torch.float64)
    for row, size, generator in zip(uniform, sizes, generators, strict=True):
        row[:, :size] = torch.rand(shape[0], size, generator=generator, dtype=torch.float64)
    return -torch.log(-torch.log(uniform.clamp(min=1e-300)))
