"""The likelihood of the answer under the generator, as a reward."""

from typing import Any

from torch import Tensor

from dro_trl.lm.logps import Aliases, Reduction, reduce_answer_logps


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
