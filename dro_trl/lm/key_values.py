"""The keys and values that a model's layers keep of what it has read, for what is read behind that."""

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache


class LayerKeyValues:
    """What one layer keeps; it stands for a cache inside that layer."""

    def __init__(self, keys: Tensor | None = None, values: Tensor | None = None) -> None:
        self.keys = keys
        self.values = values

    def update(self, keys: Tensor, values: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Keep more behind what there is, and return all, (rows, heads, tokens, width) each."""
        if self.keys is not None and self.values is not None:
            keys, values = torch.cat([self.keys, keys], dim=-2), torch.cat([self.values, values], dim=-2)
        self.keys, self.values = keys, values
        return keys, values


class KeyValues(DynamicCache):
    """What all layers keep: every token, whatever a layer's window is, and with gradient where there is one.

    A model takes it for an empty cache, and has to be told positions and masks for whatever is not the first.
    """

    def __init__(self) -> None:
        super().__init__()
        self.by_layer: dict[int, LayerKeyValues] = {}

    def of(self, layer: int) -> LayerKeyValues:
        """Return what a layer keeps, to be changed."""
        return self.by_layer.setdefault(layer, LayerKeyValues())

    def copy(self) -> "KeyValues":
        """Return another that keeps the same from here on."""
        found = KeyValues()
        found.by_layer = {i: LayerKeyValues(kept.keys, kept.values) for i, kept in self.by_layer.items()}
        return found

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Keep more of a layer, and return all of it."""
        return self.of(layer_idx).update(key_states, value_states)
