"""What a frozen generator made of a prompt and its answers, which it would make of them again."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Tokens = Sequence[int]

MOST_BYTES = 64 * 2**20
"""Of what is kept, about: 400,000 answers of a few tokens. The oldest make room."""
_BYTES_OF_ENTRY = 150
_DIGEST = 16


class KnownAnswers:
    """Log-probabilities of answers' tokens, by the tokens of their prompt and their own."""

    def __init__(self) -> None:
        self._values: dict[bytes, NDArray[Any]] = {}
        self._bytes = 0

    def logps(
        self,
        score: Callable[[Sequence[Tokens], Sequence[Sequence[Tokens]]], tuple[Tensor, Tensor]],
        prompts: Sequence[Tokens],
        answers: Sequence[Sequence[Tokens]],
    ) -> tuple[Tensor, Tensor]:
        """Return log-probabilities and mask, both (B, A, T), on the CPU; only what is not known is scored.

        Args:
            score: Returns the same of the prompts and answers that it is given.
            prompts: B lists of token ids.
            answers: B lists of up to A lists of up to T token ids.
        """
        keys = [_digest(prompt, aliases) for prompt, aliases in zip(prompts, answers, strict=True)]
        new = list({key: i for i, key in enumerate(keys) if key not in self._values}.values())
        found = {key: self._values[key] for key in keys if key in self._values}
        if new:
            scored, mask = score([prompts[i] for i in new], [answers[i] for i in new])
            for i, values, is_there in zip(new, scored.cpu().numpy(), mask.cpu().numpy(), strict=True):
                found[keys[i]] = values[is_there]
                self._keep(keys[i], found[keys[i]])
        shape = len(prompts), max(map(len, answers)), max(len(ids) for aliases in answers for ids in aliases)
        flags = np.zeros(shape, dtype=bool)
        for row, aliases in zip(flags, answers, strict=True):
            for alias, ids in zip(row, aliases, strict=False):
                alias[: len(ids)] = True
        logps = np.zeros(shape, dtype=np.float32)
        logps[flags] = np.concatenate([found[key] for key in keys])
        return torch.from_numpy(logps), torch.from_numpy(flags)

    def _keep(self, key: bytes, values: NDArray[Any]) -> None:
        self._values[key] = values
        self._bytes += values.nbytes + _BYTES_OF_ENTRY
        while self._bytes > MOST_BYTES:
            self._bytes -= self._values.pop(next(iter(self._values))).nbytes + _BYTES_OF_ENTRY

    def state(self) -> dict[str, Tensor]:
        """Return all that is known, for a checkpoint: a run that goes on from it has the same to the last bit."""
        keys = np.frombuffer(b"".join(self._values), dtype=np.uint8).reshape(-1, _DIGEST)
        values = np.concatenate([np.zeros(0, dtype=np.float32), *self._values.values()])
        lengths = [len(each) for each in self._values.values()]
        return {
            "keys": torch.tensor(keys),
            "lengths": torch.tensor(lengths, dtype=torch.int64),
            "values": torch.from_numpy(values),
        }

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take up what `state` returned."""
        self._values, self._bytes = {}, 0
        parts = state["values"].split(state["lengths"].tolist())
        for key, values in zip(state["keys"].numpy(), parts, strict=True):
            self._keep(key.tobytes(), values.numpy().copy())


def _digest(prompt: Tokens, answers: Sequence[Tokens]) -> bytes:
    lengths = [len(answers), len(prompt), *map(len, answers)]
    tokens = np.array([*lengths, *prompt, *(token for ids in answers for token in ids)], dtype=np.int64)
    return hashlib.blake2b(tokens.tobytes(), digest_size=_DIGEST).digest()
