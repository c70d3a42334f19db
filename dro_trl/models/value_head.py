"""The value head that PPO puts on the selector."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from dro_trl.lm.older_versions import kept_positions
from dro_trl.models.adapters import AdapterView


class ValueHead(nn.Module):
    """V(x), the reward that a question's selections are expected to have: linear in what the selector's output layer
    reads, without gradient to the selector, so that its error does not pull on the policy.

    Args:
        hidden_size: Of the selector.
        pooling: Which of a question's positions with logits are read, in the selector's first forward: the `"mean"` of
            all, or the `"first"` alone, for a policy whose later positions depend on the selection.
    """

    def __init__(self, hidden_size: int, pooling: str = "first") -> None:
        super().__init__()
        self.linear = nn.Linear(hidden_size, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        self.pooling = pooling

    @contextlib.contextmanager
    def reading(self, selector: Any) -> Iterator[dict[str, Any]]:
        """Note, while the context is open, what the selector computes in its first forward: the argument of `forward`.

        Later ones read what depends on the selection.
        """
        noted: dict[str, Any] = {}

        def note_positions(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
            if "states" in noted:
                return
            noted["positions"] = kept_positions(kwargs.get("logits_to_keep"))  # None: runs along.
            noted["blocks"] = kwargs.get("blocks")

        def note_states(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            if "states" not in noted:
                noted["states"] = args[0].detach()

        model = selector.model if isinstance(selector, AdapterView) else selector
        handles = [
            model.register_forward_pre_hook(note_positions, with_kwargs=True),
            selector.get_output_embeddings().register_forward_pre_hook(note_states),
        ]
        try:
            yield noted
        finally:
            for handle in handles:
                handle.remove()

    def forward(self, noted: dict[str, Any], questions: Tensor | None = None) -> Tensor:
        """Return the values, (B,) float32.

        Args:
            noted: `positions`, (R, L) bool, which of the tokens have logits, and `states`, (number of them, H); and
                `blocks`, where the R rows were read one behind the other in one.
            questions: (R,) int64, from 0 to B - 1 in ascending order, the question that each row is of; a row is a
                question where None.
        """
        blocks, positions = noted.get("blocks"), noted["positions"]
        row, num_rows = positions.nonzero()[:, 0], len(positions)
        if blocks is not None:
            row, num_rows = blocks.texts[positions[0]], len(blocks.prompts)
        if questions is not None:
            row, num_rows = questions[row], int(questions[-1]) + 1
        weight = torch.ones_like(row, dtype=torch.float32)
        if self.pooling == "first":
            weight[1:] = (row[1:] != row[:-1]).float()
        total = weight.new_zeros(num_rows).index_add(0, row, weight)
        states = noted["states"].float() * (weight / total[row])[:, None]
        pooled = states.new_zeros(num_rows, states.shape[-1]).index_add(0, row, states)
        values: Tensor = self.linear(pooled.to(self.linear.weight.dtype))[:, 0].float()
        return values
