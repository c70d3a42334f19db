"""Log-probabilities of chosen tokens against the log-softmax of all of them."""

import pytest
import torch

from dro_trl.lm import logps as module
from dro_trl.lm.logps import chosen_logps

POSITIONS = torch.tensor([2, 0, 2, 5, 5, 2])
"""Row 2 is chosen from three times, row 5 twice with the same token, rows 1, 3 and 4 never."""
TOKENS = torch.tensor([1, 6, 3, 0, 0, 1])


def both(logits, pull):
    found = []
    for compute in (chosen_logps, lambda x, p, t: x.float().log_softmax(-1)[p, t]):
        leaf = logits.clone().requires_grad_()
        logps = compute(leaf, POSITIONS, TOKENS)
        (logps * pull).sum().backward()
        found.append((logps.detach(), leaf.grad))
    return found


@pytest.mark.parametrize("block", [1, 14, 1000])
@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 1e-6), (torch.float64, 1e-6), (torch.bfloat16, 4e-3)])
def test_values_and_gradients_are_those_of_the_log_softmax(monkeypatch, block, dtype, close):
    """In blocks of one row, of two of seven logits each, and of all."""
    monkeypatch.setitem(module._BLOCK_ELEMENTS, "cpu", block)
    torch.manual_seed(0)
    (logps, grad), (expected, expected_grad) = both((3 * torch.randn(6, 7)).to(dtype), torch.randn(len(TOKENS)))
    torch.testing.assert_close(logps, expected, atol=1e-6, rtol=1e-6)
    assert logps.dtype == torch.float32
    assert grad.dtype == dtype
    torch.testing.assert_close(grad, expected_grad, atol=close, rtol=close)
    assert grad[[1, 3, 4]].abs().max() == 0


def test_the_gradient_is_that_of_finite_differences():
    logits = torch.randn(6, 7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(chosen_logps, (logits, POSITIONS, TOKENS), eps=1e-3, atol=1e-3, rtol=1e-3)


def test_logits_that_are_far_out_stay_finite():
    logits = torch.tensor([[3e4, -3e4, 0.0]], dtype=torch.bfloat16, requires_grad=True)
    logps = chosen_logps(logits, torch.tensor([0, 0]), torch.tensor([0, 1]))
    logps.sum().backward()
    assert logps.tolist() == pytest.approx([0.0, -6e4], rel=1e-2)
    assert torch.isfinite(logits.grad).all()


def test_nothing_chosen_is_an_empty_result():
    empty = torch.empty(0, dtype=torch.int64)
    assert chosen_logps(torch.randn(0, 7), empty, empty).shape == (0,)
