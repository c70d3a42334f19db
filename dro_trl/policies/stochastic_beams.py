"""Distinct selections: stochastic beam search, and the weights that make their sums unbiased."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dro_trl.policies.base import SelectionSample

Step = Callable[[Tensor], Tensor]
"""Given the choices of each beam so far, (B, W, k) int64, returns the log-probabilities of the next one, (B, W, N),
-inf for what cannot be chosen; in float64 where it can. Beams that a question lacks repeat its first."""

_LEFT = 40.0


@dataclass
class DistinctSelections:
    """M selections of a budget of M readings, all of them distinct where there are as many. B questions, K choices.

    Tensors are on the CPU, in float64.
    """

    selections: Tensor
    """(B, M, K) int64."""
    old_logps: Tensor
    """(B, M), log p(z|x) under the policy that drew them."""
    behavior_logps: Tensor
    """(B, M), log q(z|x), such that the mean over the M of `p(z) f(z) / q(z)` is an unbiased estimate of `E_p[f]` for
    any p; of that policy's own p the ratios have a mean of 1 in every draw."""
    leave_one_out: Tensor
    """(B, M, M), each row summing to 1: row m weighs f of all selections for a baseline of selection m, which leaves
    the score-function estimate unbiased."""

    def sample(self, logps: Tensor, entropy: Tensor) -> SelectionSample:
        """Return them with what a policy computed of them, on its device, with gradient: (B, M) and (B,)."""
        mine = (part.to(logps) for part in (self.behavior_logps, self.old_logps, self.leave_one_out))
        return SelectionSample(logps, entropy, self.selections.to(logps.device), *mine)


def repeated(num_items: Sequence[int], num_selections: int) -> tuple[Tensor, Tensor]:
    """Count up to the number of each row's items again and again until there are M: where there are fewer than M.

    Args:
        num_items: Of each of B rows.
        num_selections: M.

    Returns:
        The indices of the items, (B, M) int64, and how often each stands among its row's M, (B, M).
    """
    order = torch.stack([torch.arange(num_selections) % num for num in num_items])
    counts = torch.stack([torch.bincount(row, minlength=num_selections) for row in order])
    return order, counts.gather(1, order)


@torch.no_grad()
def draw_distinct(
    step: Step,
    num_items: Sequence[int],
    num_selected: int,
    num_selections: int,
    generators: Sequence[torch.Generator],
) -> DistinctSelections:
    """Draw M selections without replacement from a policy; where there are no more than M, take and repeat all.

    Args:
        step: The policy.
        num_items: N of each of B rows, at least K.
        num_selected: K.
        num_selections: M.
        generators: B random generators on the CPU, one a question, so that a draw does not depend on the batch.

    Raises:
        ValueError: If M is 1, which leaves nothing for a baseline.
    """
    if num_selections < 2:
        raise ValueError(
            f"proposal='without_replacement' and num_selections={num_selections}: a single draw is the same with "
            "replacement; set num_selections to 2 or more, or proposal='policy'"
        )
    selections, logps, log_rest = stochastic_beams(step, num_items, num_selected, num_selections, generators)
    found = [min(math.perm(num, num_selected), num_selections) for num in num_items]
    order, counts = repeated(found, num_selections)
    selections = selections.gather(1, order[..., None].expand(-1, -1, num_selected))
    logps = logps.gather(1, order)
    log_factors, leave_one_out = set_weights(logps, log_rest)
    behavior_logps = (counts.double() / num_selections).log() - log_factors
    return DistinctSelections(selections, logps, behavior_logps, leave_one_out / counts[:, None])


def _gumbel(size: Any, generator: torch.Generator) -> Tensor:
    uniform = torch.rand(size, generator=generator, dtype=torch.float64)
    return -torch.log(-torch.log(uniform.clamp(min=1e-300)))


def given_maximum(values: Tensor, maximum: Tensor) -> Tensor:
    """Turn independent Gumbel variables into such ones whose maximum is known (Kool et al., 2019, appendix B).

    Args:
        values: (..., N), -inf where there is none.
        maximum: (...).
    """
    none, maximum = values == float("-inf"), maximum[..., None]
    below = maximum - values + torch.log1p(-(values - values.amax(-1, keepdim=True)).exp())
    shifted = maximum - below.clamp(min=0) - torch.log1p(torch.exp(-below.abs()))
    return shifted.masked_fill(none, float("-inf"))


def stochastic_beams(
    step: Step,
    num_items: Sequence[int],
    num_selected: int,
    num_beams: int,
    generators: Sequence[torch.Generator],
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw M selections without replacement, choice by choice: stochastic beam search (Kool et al., 2019).

    The draw is that of the M largest of `log p(z) + Gumbel noise` over all selections, of which only those are looked
    at whose beginnings are among the M largest.

    Args:
        step: The policy.
        num_items: N of each of B rows.
        num_selected: K.
        num_beams: M.
        generators: As in `draw_distinct`.

    Returns:
        Selections, (B, W, K) int64, and their log-probabilities, (B, W), in the order of the draw, and the logarithm
        of the probability of all others together, (B,). W is M, or the number of selections of the row that has most;
        a row that has fewer repeats its first, with a log-probability of -inf.
    """
    prefixes = torch.zeros(len(num_items), 1, 0, dtype=torch.int64)
    logps = torch.zeros(len(num_items), 1, dtype=torch.float64)
    perturbed = torch.cat([_gumbel((1, 1), generator) for generator in generators])
    log_rest = logps.new_full((len(num_items),), float("-inf"))
    for choice in range(num_selected):
        log_probs = step(prefixes).detach().double().cpu()
        children = logps[..., None] + log_probs
        noise = torch.zeros_like(children)
        for row, num, generator in zip(noise, num_items, generators, strict=True):
            # As many numbers as the row has beams and items: what is beside it must not change what it draws.
            width = min(math.perm(num, choice), num_beams)
            row[:width, :num] = _gumbel((width, num), generator)
        perturbed, order = (
            given_maximum(children + noise, perturbed)
            .flatten(1)
            .topk(min(num_beams, max(math.perm(num, choice + 1) for num in num_items)))
        )
        children, parents, items = children.flatten(1), order // log_probs.shape[-1], order % log_probs.shape[-1]
        log_rest = torch.logaddexp(log_rest, children.scatter(1, order, float("-inf")).logsumexp(-1))
        logps = children.gather(1, order)
        prefixes = torch.cat([prefixes.gather(1, parents[..., None].expand(-1, -1, choice)), items[..., None]], -1)
        prefixes = torch.where((logps == float("-inf"))[..., None], prefixes[:, :1], prefixes)
    return prefixes, logps, log_rest


def set_weights(logps: Tensor, log_rest: Tensor) -> tuple[Tensor, Tensor]:
    """Return what selections weigh that were drawn without replacement: unordered-set estimator (Kool et al., 2020).

    With S the set that was drawn, P(S) its probability and `P_z` that of drawing the others where z does not exist,
    `sum_z p(z) R(z) f(z)` with `R(z) = P_z(S - z) / P(S)` is an unbiased estimate of `E_p[f]`, which does not
    depend on the order of the draw; its weights `p(z) R(z)` sum to 1. The baseline of z is the same estimate
    from the others, and f(z) for z itself with its own probability.

    P(S) is the integral over u of `e^(u - e^u) prod_z (1 - exp(-e^u p(z) / rest))`, whose sum over a grid converges
    exponentially fast once that is finer than the integrand is narrow, about `1 / sqrt(M)`.

    Args:
        logps: (B, M) log p(z) of distinct z, float64.
        log_rest: (B,) the logarithm of the probability of all others together; -inf where there is none.

    Returns:
        log R, (B, M), and the weights of the baselines, (B, M, M), each row summing to 1.
    """
    num = logps.shape[-1]
    grid = torch.arange(-_LEFT, math.log(2 * num + 100), min(0.2, 0.7 / math.sqrt(num)), dtype=logps.dtype)
    at = (logps - log_rest[:, None])[..., None] + grid
    # log(1 - exp(-e^at)), which is `at` where that is far below 0.
    factors = torch.where(at < -_LEFT, at, torch.log(-torch.expm1(-at.exp())))
    whole = factors.sum(1) + grid - grid.exp()
    without_one = (whole[:, None] - factors).logsumexp(-1)
    without_two = (whole[:, None, None] - factors[:, :, None] - factors[:, None]).logsumexp(-1)
    ratios = without_two - without_one[..., None]
    leave_one_out = (logps[:, None] + ratios.masked_fill(torch.eye(num, dtype=torch.bool), 0.0)).exp()
    return without_one - whole.logsumexp(-1, keepdim=True), leave_one_out
