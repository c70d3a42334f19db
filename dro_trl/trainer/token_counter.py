"""How many tokens a run's models have read."""

from collections.abc import Iterable
from typing import Any

from accelerate.utils import gather_object
from torch import Tensor, nn


class TokenCounter:
    """Counts what models read while training, padding included where there is any: a shared prompt counts once.

    A pass that is made again in the backward pass, as `scoring_token_budget` has it, counts again.

    Args:
        models: Causal LMs; one that is given twice is counted once.
    """

    def __init__(self, models: Iterable[nn.Module]) -> None:
        self.count = 0
        """Tokens read by this process since the last `take`."""
        for model in {id(model): model for model in models}.values():
            model.register_forward_pre_hook(self._note, with_kwargs=True)

    def _note(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if model.training:
            ids: Tensor | None = args[0] if args else kwargs.get("input_ids")
            self.count += ids.numel() if ids is not None else kwargs["inputs_embeds"].shape[:-1].numel()

    def take(self) -> int:
        """Return the count of all processes together, and begin anew; every process must call it."""
        counts: list[int] = gather_object([self.count])
        self.count = 0
        return sum(counts)
