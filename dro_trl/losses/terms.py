"""Terms that several losses share: pure functions of tensors, B questions, M selections each.

Every loss is a scalar whose gradient descends; rows count alike, whatever their number of selections.
"""

import torch
from torch import Tensor

from dro_trl.losses.base import ScoredSelections
from dro_trl.losses.options import LossOptions


def score_function(logps: Tensor, values: Tensor, log_ratios: Tensor, leave_one_out: Tensor | None = None) -> Tensor:
    """Return a surrogate whose gradient is that of `E_p[values]` by the score-function estimator.

    The mean of a row's other selections is the baseline. The estimate is without bias, on-policy and off.

    Args:
        logps: (B, M) log p_s(z|x).
        values: (B, M), held constant.
        log_ratios: (B, M) log p_s(z|x) - log q(z|x), held constant.
        leave_one_out: (B, M, M) what weighs the baseline's values, where the draws were not independent.
    """
    values, ratios = values.detach(), log_ratios.detach().exp()
    if leave_one_out is None:
        others = (values.sum(-1, keepdim=True) - values) / max(values.shape[-1] - 1, 1)
    else:
        others = baselines(values, leave_one_out)
    return (ratios * (values - others) * logps).mean(-1).mean()


def baselines(values: Tensor, leave_one_out: Tensor) -> Tensor:
    """Return the mean of the values, (B, M), that each row of (B, M, M) weights makes."""
    return torch.einsum("bmn,bn->bm", leave_one_out, values)


def entropy_loss(logps: Tensor, log_ratios: Tensor, leave_one_out: Tensor | None = None) -> Tensor:
    """Return a surrogate that descends the negative entropy `E_p[log p_s(z|x)]`; only its gradient has a meaning."""
    return score_function(logps, logps, log_ratios, leave_one_out)


def kl_loss(logps: Tensor, ref_logps: Tensor, log_ratios: Tensor, leave_one_out: Tensor | None = None) -> Tensor:
    """Return a surrogate that descends `KL(p_s || p_ref) = E_p[log p_s - log p_ref]`; only its gradient has a meaning.

    Args:
        logps: (B, M) log p_s(z|x).
        ref_logps: (B, M) log-probabilities under the reference selector.
        log_ratios: (B, M) log p_s(z|x) - log q(z|x), held constant.
        leave_one_out: As in `score_function`.
    """
    return score_function(logps, logps - ref_logps, log_ratios, leave_one_out)


def with_kl(loss: Tensor, scored: ScoredSelections, args: LossOptions) -> Tensor:
    """Add `kl_coef` times `kl_loss` where there is a reference."""
    if scored.ref_logps is None:
        return loss
    return loss + args.kl_coef * kl_loss(scored.logps, scored.ref_logps, scored.log_ratios, scored.leave_one_out)
