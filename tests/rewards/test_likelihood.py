"""Reducing the log-probabilities of an answer's tokens, against values worked by hand."""

import inspect
import math

import pytest
import torch

from dro_trl.lm.logps import reduce_answer_logps
from dro_trl.rewards.likelihood import AnswerLogLikelihood

LOGPS = torch.tensor(
    [
        # A selection with two aliases, of 3 tokens and of 1.
        [[-1.0, -2.0, -3.0], [-4.0, 0.0, 0.0]],
        # Another whose question has one alias, of 2 tokens.
        [[-0.5, -0.5, 0.0], [0.0, 0.0, 0.0]],
    ]
)
MASK = torch.tensor([[[1, 1, 1], [1, 0, 0]], [[1, 1, 0], [0, 0, 0]]]).bool()

EXPECTED = {
    # Sums: -6 and -4; -1. Means: -2 and -4; -1/2. The padded alias takes no part.
    ("sum", "first"): [-6.0, -1.0],
    ("sum", "best"): [-4.0, -1.0],
    ("sum", "marginal"): [math.log(math.exp(-6) + math.exp(-4)), -1.0],
    ("mean", "first"): [-2.0, -0.5],
    ("mean", "best"): [-2.0, -0.5],
    ("mean", "marginal"): [math.log(math.exp(-2) + math.exp(-4)), -0.5],
}
GRADIENTS = {
    # The share of each alias: all of it for the first or the best, exp(l_a) / sum exp(l) for the marginal.
    "first": lambda sums: [1.0, 0.0],
    "best": lambda sums: [float(sums[0] > sums[1]), float(sums[1] > sums[0])],
    "marginal": lambda sums: torch.tensor(sums).softmax(0).tolist(),
}


@pytest.mark.parametrize(("reduction", "aliases"), EXPECTED)
def test_reductions(reduction, aliases):
    found = reduce_answer_logps(LOGPS, MASK, reduction, aliases)
    assert found.tolist() == pytest.approx(EXPECTED[reduction, aliases], rel=1e-6)
    # Leading dimensions do not matter, and what stands in the padding neither.
    noisy = LOGPS.masked_fill(~MASK, -7.0)[None]
    assert reduce_answer_logps(noisy, MASK[None], reduction, aliases).tolist() == [found.tolist()]


@pytest.mark.parametrize(("reduction", "aliases"), EXPECTED)
def test_gradients_with_padded_aliases(reduction, aliases):
    """1, or 1 / length for the mean, times the alias's share; 0 in the padding, and finite everywhere."""
    logps = LOGPS.clone().requires_grad_()
    reduce_answer_logps(logps, MASK, reduction, aliases).sum().backward()
    assert logps.grad.isfinite().all()
    assert logps.grad[~MASK].abs().max() == 0
    scale = [1 / 3, 1.0, 1 / 2] if reduction == "mean" else [1.0, 1.0, 1.0]
    first, second = GRADIENTS[aliases]([-2.0, -4.0] if reduction == "mean" else [-6.0, -4.0])
    torch.testing.assert_close(logps.grad[0, 0], torch.full((3,), first * scale[0]))
    assert logps.grad[0, 1, 0].item() == pytest.approx(second * scale[1])
    assert logps.grad[1, 0, :2].tolist() == pytest.approx([scale[2]] * 2)


def test_unknown_options():
    with pytest.raises(ValueError, match="likelihood_reduction='median' is unknown; use 'sum' or 'mean'"):
        reduce_answer_logps(LOGPS, MASK, "median", "first")
    with pytest.raises(ValueError, match="likelihood_aliases='last' is unknown; use 'first', 'best' or 'marginal'"):
        reduce_answer_logps(LOGPS, MASK, "sum", "last")


def test_as_a_reward():
    """One number per selection, other columns ignored, and a name and a signature to go by."""
    reward = AnswerLogLikelihood("mean", "best")
    found = reward(answer_logps=LOGPS, answer_mask=MASK, prompts=["a", "b"], gold_ids=[None, None])
    assert found.tolist() == [-2.0, -0.5]
    assert AnswerLogLikelihood()(answer_logps=LOGPS, answer_mask=MASK).tolist() == [-6.0, -1.0]
    assert reward.__name__ == "answer_log_likelihood"
    assert {"answer_logps", "answer_mask"} <= set(inspect.signature(reward).parameters)
