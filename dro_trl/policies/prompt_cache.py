"""The keys and values of prompts, once, and of what is written behind them."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dro_trl.lm.attention import PADDING, Blocks, attention_mask, blocks_of, use_blocks
from dro_trl.lm.key_values import KeyValues
from dro_trl.lm.logps import added_once
from dro_trl.lm.older_versions import forward_keeping


class Written(NamedTuple):
    """A token that is read behind a prompt."""

    segment: int
    """The number of its selection, from 1; 0 in the prompt."""
    position: int
    token: int
    is_kept: bool
    """Whether the logits after it are wanted."""


class PromptCache:
    """What a model has read of B questions: their prompts, in one pass, and what has been read behind them since.

    With gradient, the prompts' keys and values are a part of the graph, so that what is read behind them later
    sends its gradient back into the one pass that read them.

    Args:
        model: A causal LM.
        prompts: B lists of token ids, none empty.
        longest: Tokens of the longest prompt with the longest selection behind it.
        device: The model's.
    """

    def __init__(self, model: nn.Module, prompts: Sequence[Sequence[int]], longest: int, device: torch.device) -> None:
        self._model, self._device = model, device
        self._in_one_row = use_blocks(model, longest)
        self._cache = KeyValues()
        self._length = 0
        self._seen = [np.zeros((0, 3), dtype=np.int64) for _ in prompts]
        self.lengths = [*map(len, prompts)]
        reading: dict[str, Any] = {}
        if self._in_one_row and len(prompts) > 1:
            reading = self._given(blocks_of([len(ids) - 1 for ids in prompts], [[1]] * len(prompts)))
        texts = [[Written(0, i, token, i == len(ids) - 1) for i, token in enumerate(ids)] for ids in prompts]
        self.logits = self._read([np.array(text) for text in texts], reading)
        """(B, V), after the prompts."""
        self._start = self._length, list(self._seen), self._cache.copy()

    def rewind(self) -> None:
        """Forget all but the prompts."""
        self._length, seen, cache = self._start
        self._seen, self._cache = list(seen), cache.copy()

    def read(self, texts: Sequence[Sequence[Written]]) -> Tensor:
        """Read more behind each of the B prompts, at least one token in all.

        Returns:
            The logits after the tokens that are kept, in order, (number kept, V).
        """
        new = [np.array(text, dtype=np.int64).reshape(-1, len(Written._fields)) for text in texts]
        if self._in_one_row:
            return self._read(new, self._given(self._behind(new)))
        before = self._padded(self._seen, self._length, (1, 2))
        behind = self._padded(new, max(map(len, new)), (0, 1))
        keys = (torch.cat([old, more], dim=1) for old, more in zip(before, behind, strict=True))
        return self._read(new, {"attention_mask": attention_mask(self._model, *behind, *keys)})

    def _padded(self, rows: Sequence[NDArray[Any]], width: int, fields: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """The segments and positions of rows in which a token has its own column, or the next free one."""
        segments, positions = (np.full((len(rows), width), fill) for fill in (PADDING, 0))
        for b, row in enumerate(rows):
            columns = row[:, 0] if fields[0] else np.arange(len(row))
            segments[b, columns], positions[b, columns] = row[:, fields[0]], row[:, fields[1]]
        return torch.from_numpy(segments).to(self._device), torch.from_numpy(positions).to(self._device)

    def _given(self, blocks: Blocks) -> dict[str, Any]:
        if self._device.type == "cpu" and blocks.mask is not None:
            blocks.mask = added_once(blocks.mask, next(self._model.parameters()).dtype)
        # An empty mask: else one would be made of the positions.
        return {"blocks": blocks.to(self._device), "attention_mask": torch.empty(1, 1, 0, 0, device=self._device)}

    def _read(self, new: Sequence[NDArray[Any]], reading: dict[str, Any]) -> Tensor:
        lengths = [len(text) for text in new]
        # The tokens of each question begin in a column of their own, or all in the first.
        starts = np.concatenate([[0], np.cumsum(lengths)[:-1]]) if self._in_one_row else np.zeros(len(new), np.int64)
        width = sum(lengths) if self._in_one_row else max(lengths)
        ids, positions, kept = (np.zeros((1 if self._in_one_row else len(new), width), np.int64) for _ in range(3))
        for b, (text, start) in enumerate(zip(new, starts, strict=True)):
            row, columns = 0 if self._in_one_row else b, start + np.arange(len(text))
            positions[row, columns], ids[row, columns], kept[row, columns] = text[:, 1], text[:, 2], text[:, 3]
            self._seen[b] = np.concatenate([self._seen[b], np.stack([self._length + columns, *text.T[:2]], axis=1)])
        self._length += width
        if reading:  # Else each row is plainly causal, and any padding comes last.
            reading["position_ids"] = torch.from_numpy(positions).to(self._device)
        logits: Tensor = forward_keeping(
            self._model,
            input_ids=torch.from_numpy(ids).to(self._device),
            logits_to_keep=torch.from_numpy(kept.astype(bool)).to(self._device),
            past_key_values=self._cache,
            use_cache=True,
            **reading,
        ).logits
        return logits

    def _behind(self, new: Sequence[NDArray[Any]]) -> Blocks:
        """Each question's new tokens against all that it has, those of other selections hidden."""
        starts = np.concatenate([[0], np.cumsum([len(text) for text in new])])
        groups = [b for b, text in enumerate(new) if len(text)]
        shape = max(len(new[b]) for b in groups), max(len(self._seen[b]) + len(new[b]) for b in groups)
        queries, keys = (np.empty((len(groups), size), dtype=np.int64) for size in shape)
        mask = np.zeros((len(groups), 1, *shape), dtype=bool)
        places = []
        for g, b in enumerate(groups):
            own = starts[b] + np.arange(len(new[b]))
            seen = np.concatenate([self._seen[b], np.stack([self._length + own, *new[b].T[:2]], axis=1)])
            # What fills a row up repeats the last token; as a query it sees what that does, as a key none sees it.
            queries[g], keys[g] = own[-1], seen[-1, 0]
            queries[g, : len(own)], keys[g, : len(seen)] = own, seen[:, 0]
            segment, position = (np.pad(new[b][:, i], (0, shape[0] - len(own)), mode="edge")[:, None] for i in (0, 1))
            visible = ((seen[:, 1] == 0) | (seen[:, 1] == segment)) & (seen[:, 2] <= position)
            mask[g, 0, :, : len(seen)] = visible
            places.append(g * shape[0] + np.arange(len(own)))
        q, k, seen_by, at = (torch.from_numpy(part) for part in (queries, keys, mask, np.concatenate(places)))
        texts = torch.from_numpy(np.repeat(np.arange(len(new)), np.diff(starts)))
        columns = torch.from_numpy(np.concatenate([np.arange(len(text)) for text in new]))
        return Blocks(texts, columns, 0, None, q, k, seen_by, at, asking=q.flatten(), asked=k.flatten())


def read_nothing(model: Any, device: torch.device) -> Tensor:
    """Run a forward pass that other processes wait for, and return its logits, (1, V)."""
    found: Tensor = model(input_ids=torch.zeros((1, 1), dtype=torch.int64, device=device), use_cache=False).logits[0]
    return found
