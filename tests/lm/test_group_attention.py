"""Attention of small groups written out as products, against the same in float64."""

import itertools
import weakref

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from dro_trl.lm import attention, group_attention
from dro_trl.lm.group_attention import attend_by_products, attends_by_products
from dro_trl.lm.logps import token_logps
from dro_trl.lm.packing import pack
from tests.helpers.tiny_models import MODEL_TYPES, tiny_model, tiny_tokenizer
from tests.lm.test_packing import random_batch

SHAPES = [
    # groups, heads, key heads, queries, keys, width, width of values
    (5, 4, 1, 7, 12, 16, 16),
    (3, 6, 2, 9, 9, 8, 8),
    (4, 2, 2, 1, 30, 8, 12),
    (1, 3, 3, 16, 16, 8, 8),
]


def draw(shape, dtype=torch.float32, masks=None):
    """Query, key, value, mask, and a gradient; each query sees itself and what a random mask shows."""
    groups, heads, key_heads, queries, keys, width, value_width = shape
    generator = torch.Generator().manual_seed(0)
    sizes = [(heads, queries, width), (key_heads, keys, width), (key_heads, keys, value_width)]
    query, key, value = (torch.randn(groups, *size, generator=generator).to(dtype) for size in sizes)
    seen = torch.rand(masks or groups, 1, queries, keys, generator=generator) < 0.5
    seen[..., -queries:] |= torch.eye(queries, dtype=torch.bool)
    mask = torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, float("-inf"))
    gradient = torch.randn(groups, queries, heads, value_width, generator=generator).to(dtype)
    return query, key, value, mask, gradient


def plainly(query, key, value, mask, scale):
    """Softmax attention as it is defined, (G, Q, heads, width)."""
    each = query.shape[1] // key.shape[1]
    key, value = (given.repeat_interleave(each, dim=1) for given in (key, value))
    return ((query @ key.mT * scale + mask).softmax(-1) @ value).transpose(1, 2)


def of_kernel(query, key, value, mask, scale):
    """PyTorch's own, likewise."""
    each = query.shape[1] // key.shape[1]
    key, value = (given.repeat_interleave(each, dim=1) for given in (key, value))
    return scaled_dot_product_attention(query, key, value, mask, scale=scale).transpose(1, 2)


def results(attend, given, gradient, dtype):
    """What comes out, and the gradients of query, key and value, in float64."""
    query, key, value, mask = (part.to(dtype) for part in given)
    leaves = [part.requires_grad_() for part in (query, key, value)]
    found = attend(*leaves, mask, 0.3)
    found.backward(gradient.to(dtype))
    return [part.detach().double() for part in (found, *(leaf.grad for leaf in leaves))]


@pytest.mark.parametrize("portion", [1, 200, 1 << 18], ids=["group by group", "few groups", "all groups"])
@pytest.mark.parametrize("masks", [None, 1], ids=["a mask each", "one mask"])
@pytest.mark.parametrize("shape", SHAPES)
def test_results_and_gradients_are_those_of_float64(shape, masks, portion, monkeypatch):
    monkeypatch.setattr(group_attention, "_SCORES", portion)
    *given, gradient = draw(shape, masks=masks)
    expected = results(plainly, given, gradient, torch.float64)
    for found, wanted in zip(results(attend_by_products, given, gradient, torch.float32), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=2e-6 * wanted.abs().max().item() + 1e-7)


@pytest.mark.parametrize("shape", [(26, 4, 1, 66, 95, 256, 256), (6, 14, 2, 100, 130, 64, 64)])
def test_in_bfloat16_it_is_as_near_as_the_kernel(shape):
    *given, gradient = draw(shape, torch.bfloat16)
    expected = results(plainly, given, gradient, torch.float64)
    off = [
        [float((part - wanted).norm() / wanted.norm()) for part, wanted in zip(found, expected, strict=True)]
        for found in (results(attend, given, gradient, torch.bfloat16) for attend in (attend_by_products, of_kernel))
    ]
    for by_products, by_kernel in zip(*off, strict=True):
        assert by_products < max(1.5 * by_kernel, 4e-3)


def test_without_a_mask_it_is_causal():
    query, key, value, _, _ = draw((2, 4, 2, 9, 9, 8, 8), torch.bfloat16)
    mask = torch.full((1, 1, 9, 9), float("-inf")).triu(1).bfloat16()
    assert torch.equal(attend_by_products(query, key, value, None), attend_by_products(query, key, value, mask))


def test_mixed_precision_multiplies_bfloat16_and_keeps_scores_in_float32():
    query, key, value, mask, gradient = draw((3, 4, 1, 7, 12, 64, 64))
    query *= 8  # Scores of tens, which bfloat16 rounds by a tenth.
    leaves = [part.requires_grad_() for part in (query, key, value)]
    with torch.autocast("cpu", torch.bfloat16):
        found = attend_by_products(*leaves, mask)
    found.backward(gradient.bfloat16())
    halves = [part.detach().bfloat16().requires_grad_() for part in leaves]
    expected = attend_by_products(*halves, mask)
    expected.backward(gradient.bfloat16())
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, expected)
    for leaf, half in zip(leaves, halves, strict=True):
        assert leaf.grad.dtype == torch.float32
        assert torch.equal(leaf.grad, half.grad.float())
    exact = plainly(*(half.detach().double() for half in halves), mask.double(), 1 / 8)
    assert (found.double() - exact).norm() < 4e-3 * exact.norm()


def test_where_it_is_used():
    query, key, _, mask, _ = draw((3, 4, 1, 16, 16, 8, 8))
    assert attends_by_products(query, key, mask, scaling=0.5, sliding_window=4)
    assert not attends_by_products(torch.zeros(3, 4, 17, 8), key, mask)
    few = query[:, :, :3]
    assert attends_by_products(few, key, mask[:, :, :3])
    assert not attends_by_products(few, few, mask[:, :, :3, :3]), "no heads share keys"
    assert attends_by_products(query, query, mask)
    for given in ({"dropout": 0.1}, {"softcap": 30.0}, {"s_aux": torch.zeros(4)}, {"position_bias": mask}):
        assert not attends_by_products(query, key, mask, **given)
    assert not attends_by_products(query, key, mask == 0)
    assert not attends_by_products(query.half(), key, mask)
    assert not attends_by_products(query.to("meta"), key, mask)
    assert not attends_by_products(query, key, None)
    assert attends_by_products(query.bfloat16(), key, None)
    with torch.autocast("cpu", torch.bfloat16):
        assert attends_by_products(query, key, None)


def test_weights_are_kept_for_a_gradient_alone(monkeypatch):
    """Of three groups, one at a time; without gradient, those of a group are gone by the one after the next."""
    monkeypatch.setattr(group_attention, "_SCORES", 1)
    query, key, value, mask, _ = draw((3, 4, 1, 7, 12, 8, 8))
    saved, weights, softmax = [], [], torch.Tensor.softmax

    def watched(scores, dim):
        gone.append(all(reference() is None for reference in weights[:-1]))
        found = softmax(scores, dim)
        weights.append(weakref.ref(found))
        return found

    monkeypatch.setattr(torch.Tensor, "softmax", watched)
    for trained, held in ((False, [True, True, True]), (True, [True, True, False])):
        gone = []
        weights.clear()
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor) or tensor, lambda t: t):
            found = attend_by_products(query.requires_grad_(trained), key, value, mask)
        assert gone == held
        assert len(saved) == (3 + 3 if trained else 0)
        assert found.requires_grad == trained


@pytest.mark.parametrize("kind", MODEL_TYPES)
def test_a_model_takes_it_and_its_numbers_stay(kind, monkeypatch):
    """Passages behind a question, in bfloat16: as far from float32 as with PyTorch's kernel."""
    model, calls = tiny_model(kind, tiny_tokenizer()), itertools.count()
    batch = pack(*random_batch([4, 3], [[5, 1, 6], [3, 2]]))
    with torch.no_grad():
        exact = token_logps(model, batch)
        model = model.bfloat16()
        monkeypatch.setattr(
            attention, "attend_by_products", lambda *given: (next(calls), attend_by_products(*given))[1]
        )
        found = token_logps(model, batch)
        parts = 2 * model.config.get_text_config().num_hidden_layers
        assert next(calls) == parts
        monkeypatch.setattr(attention, "attends_by_products", lambda *given, **kwargs: False)
        by_kernel = token_logps(model, batch)
    assert next(calls) == parts + 1
    error, of_kernel_ = ((part - exact).pow(2).mean().sqrt() for part in (found, by_kernel))
    assert error < 2 * of_kernel_ + 1e-3
