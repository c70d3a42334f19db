"""The likelihood of the answer under the generator, as a reward."""

from typing import Any, Literal

from torch import Tensor

Reduction = Literal["sum", "mean"]
Aliases = Literal["first", "best", "marginal"]


def reduce_answer_logps(token_logps: Tensor, mask: Tensor, reduction: Reduction, aliases: Aliases) -> Tensor:
    """Reduce the log-probabilities of an answer's aliases to one number.

    Args:
        token_logps: (..., A, T) log-probabilities of the tokens of A aliases, in nats.
        mask: (..., A, T) bool, False where padded; an alias without tokens is left out.
        reduction: `"sum"` is log p_g(y|x, d_z); `"mean"` divides by the number of tokens, a length-dependent
            temperature.
        aliases: `"first"` takes the first alias, `"best"` the likeliest, `"marginal"` the logarithm of their sum.

    Returns:
        (...,) in nats (per token for `"mean"`).

    Raises:
        ValueError: If `reduction` or `aliases` is unknown.
    """
    if reduction not in ("sum", "mean"):
        raise ValueError(f"likelihood_reduction={reduction!r} is unknown; use 'sum' or 'mean'")
    lengths = mask.sum(-1)
    logps = (token_logps * mask).sum(-1)
    if reduction == "mean":
        logps = logps / lengths.clamp(min=1)
    if aliases == "first":
        return logps[..., 0]
    logps = logps.masked_fill(lengths == 0, float("-inf"))
    if aliases == "best":
        return logps.amax(-1)
    if aliases == "marginal":
        return logps.logsumexp(-1)
    raise ValueError(f"likelihood_aliases={aliases!r} is unknown; use 'first', 'best' or 'marginal'")


class AnswerLogLikelihood:
    """Reward a selection by the log-likelihood of the answer given its passages.

    Args:
        reduction: Over the answer's tokens; see `reduce_answer_logps`.
        aliases: Over the answer's aliases; see `reduce_answer_logps`.
    """

    __name__ = "answer_log_likelihood"

    def __init__(self, reduction: Reduction = "sum", aliases: Aliases = "first") -> None:
        self.reduction: Reduction = reduction
        self.aliases: Aliases = aliases

    def __call__(self, answer_logps: Tensor, answer_mask: Tensor, **kwargs: Any) -> Tensor:
        """Return one reward for each selection.

        Args:
            answer_logps: (R, A, T) log-probabilities of the tokens of A aliases for R selections, in nats.
            answer_mask: (R, A, T) bool, False where padded.
            **kwargs: Dataset columns, unused.

        Returns:
            (R,) rewards in nats.
        """
        return reduce_answer_logps(answer_logps, answer_mask, self.reduction, self.aliases)
