"""What an item's score is the weighted sum of, with weights that training can learn."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

NAMES = ("score_temperature", "retriever_prior", "answer_confidence")
"""The arguments of a policy that the weights come from; the first is one over its weight."""


class ScoreWeights(nn.Module):
    """The weights of the selector's own score of an item, of the retriever's, and of the selector's confidence.

    Args:
        score_temperature: One over the weight of the selector's own score.
        retriever_prior: Weight of the retriever's score.
        answer_confidence: Weight of the selector's confidence; None where that is not read.
        learn: Whether the weights are trained.
    """

    def __init__(
        self, score_temperature: float, retriever_prior: float, answer_confidence: float | None, learn: bool
    ) -> None:
        super().__init__()
        start = [1 / score_temperature, retriever_prior, answer_confidence]
        self.weight = nn.Parameter(torch.tensor([w for w in start if w is not None]), requires_grad=learn)
        self.used = self.weight.detach()

    def forward(self, scores: Sequence[Tensor]) -> Tensor:
        """Return the weighted sum of as many tensors of one shape as there are weights, in float32."""
        weight = self.weight.float().to(scores[0].device)
        self.used = weight.detach().clone()  # Where the weights are sharded, they are whole, and there, only here.
        total: Tensor = (torch.stack(list(scores), dim=-1) * weight).sum(-1)
        return total

    def metrics(self) -> dict[str, Tensor]:
        """Return each weight as the last forward used it, by name, (1,)."""
        names = ("selector", "retriever", "confidence")
        return {f"score_weight/{name}": weight[None] for name, weight in zip(names, self.used, strict=False)}


def learnt_weight(kwargs: Mapping[str, float]) -> Tensor:
    """Return the parameter that `learnt_kwargs` described."""
    first, *others = kwargs.values()
    return torch.tensor([1 / first, *others])


def learnt_kwargs(weight: Tensor) -> dict[str, float]:
    """Return the arguments of a policy that starts with these weights.

    Args:
        weight: (2,) or (3,), a `ScoreWeights`' parameter.
    """
    first, *others = weight.double().tolist()
    return dict(zip(NAMES, [1 / first if first else float("inf"), *others], strict=False))
