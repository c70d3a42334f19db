"""What an item's score is the weighted sum of, with weights that training can learn."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

MEASURES = {
    "score_temperature": "selector",
    "retriever_prior": "retriever",
    "answer_confidence": "confidence",
    "link_weight": "link",
}
"""The arguments of a policy that the weights come from, and what they weigh; the first is one over its weight."""


class ScoreWeights(nn.Module):
    """The weights of the selector's own score of an item, of the retriever's, and of what else is read.

    Args:
        score_temperature: One over the weight of the selector's own score.
        retriever_prior: Weight of the retriever's score.
        answer_confidence: Weight of the selector's confidence; None where that is not read.
        learn: Whether the weights are trained.
        link_weight: Weight of a passage's link to those chosen before; None where that is not read.
    """

    def __init__(
        self,
        score_temperature: float,
        retriever_prior: float,
        answer_confidence: float | None,
        learn: bool,
        link_weight: float | None = None,
    ) -> None:
        super().__init__()
        start = (1 / score_temperature, retriever_prior, answer_confidence, link_weight)
        read = {name: weight for name, weight in zip(MEASURES, start, strict=True) if weight is not None}
        self.names = list(read)
        self.weight = nn.Parameter(torch.tensor(list(read.values())), requires_grad=learn)
        self.used = self.weight.detach()

    def forward(self, scores: Sequence[Tensor]) -> Tensor:
        """Return the weighted sum of as many tensors of one shape as there are weights, in float32."""
        weight = self.weight.float().to(scores[0].device)
        self.used = weight.detach().clone()  # Where the weights are sharded, they are whole, and there, only here.
        total: Tensor = (torch.stack(list(scores), dim=-1) * weight).sum(-1)
        return total

    def metrics(self) -> dict[str, Tensor]:
        """Return each weight as the last forward used it, by name, (1,)."""
        return {f"score_weight/{MEASURES[name]}": w[None] for name, w in zip(self.names, self.used, strict=True)}

    def learnt_kwargs(self, weight: Tensor) -> dict[str, float]:
        """Return the arguments of a policy that starts with what the parameter became, (number of weights,)."""
        first, *others = weight.double().tolist()
        return dict(zip(self.names, [1 / first if first else float("inf"), *others], strict=True))


def learnt_weight(kwargs: Mapping[str, float]) -> Tensor:
    """Return the parameter that `ScoreWeights.learnt_kwargs` described."""
    first, *others = kwargs.values()
    return torch.tensor([1 / first, *others])
