"""LoRA layers in one node of the graph against PEFT's own chain of modules."""

import contextlib
import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora.layer import Linear as LoraLinear
from torch.utils._python_dispatch import TorchDispatchMode

from dro_trl.lm.lora import join_lora
from tests.helpers.tiny_models import gradients, largest_difference, tiny_model, tiny_tokenizer

IDS = torch.arange(5, 25).view(2, 10)


class Dispatched(TorchDispatchMode):
    """Counts operators."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


def adapted(kind="qwen2", dtype=torch.float32, **options):
    """A model with an adapter that changes something."""
    config = LoraConfig(r=3, lora_alpha=5, target_modules="all-linear", **options)
    model = get_peft_model(tiny_model(kind, tiny_tokenizer()).to(dtype), config).train()
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name or "magnitude" in name:
            torch.nn.init.normal_(parameter, 1.0 if "magnitude" in name else 0.0, 0.1)
    return model


def loss_and_gradients(model, context=contextlib.nullcontext):
    """The sum of the logits, weighed at random, its gradients, and the operators of both passes."""
    torch.manual_seed(2)
    with Dispatched() as dispatched:
        with context():
            logits = model(IDS).logits
        loss = (logits.float() * torch.randn(logits.shape)).sum()
        found = gradients(model, loss)
    return loss.detach(), found, dispatched.count


@pytest.mark.parametrize("kind", ["qwen2", "llama", "gemma3"])
def test_values_and_gradients_are_pefts(kind):
    """With biases in the base (Qwen2) and without, in at most three quarters of the operators of all layers."""
    model = adapted(kind)
    loss, wanted, before = loss_and_gradients(model)
    join_lora(model)
    found, joined, after = loss_and_gradients(model)
    torch.testing.assert_close(found, loss, atol=1e-4, rtol=1e-5)
    assert largest_difference(joined, wanted) <= 1e-4
    assert {name for name, part in joined.items() if part.abs().sum() > 0} == {
        name for name, part in wanted.items() if part.abs().sum() > 0
    }
    assert after < 0.75 * before


def test_what_is_frozen_gets_no_gradient():
    """Of two adapters, `b` of the first alone is trained, and the input as well."""
    model = adapted("llama")
    join_lora(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_B" in name)
    embedded = model.get_input_embeddings()(IDS).detach().requires_grad_()
    model(inputs_embeds=embedded).logits.sum().backward()
    assert embedded.grad.abs().sum() > 0
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == ("lora_B" in name), name


def test_autocast_computes_in_its_format():
    """Weights in float32, layers in bfloat16: gradients of the weights' own format, and as near as PEFT's."""

    def context():
        return torch.autocast("cpu", torch.bfloat16)

    model = adapted()
    _, exact, _ = loss_and_gradients(model)
    _, wanted, _ = loss_and_gradients(model, context)
    join_lora(model)
    _, found, _ = loss_and_gradients(model, context)
    assert {part.dtype for part in found.values()} == {torch.float32}
    assert largest_difference(found, exact) <= 1.5 * largest_difference(wanted, exact)


def two_adapters(model):
    model.add_adapter("other", model.peft_config["default"])
    model.base_model.set_adapter(["default", "other"])


def hook_parts(model):
    for name, module in model.named_modules():
        if name.endswith("lora_B.default"):
            module.register_forward_hook(lambda m, args, found: 2 * found)


def train_base(model):
    for layer in model.modules():
        if isinstance(layer, LoraLinear):
            layer.base_layer.weight.requires_grad_()


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.base_model.disable_adapter_layers(),
        lambda model: model.merge_adapter(),
        two_adapters,
        hook_parts,
        train_base,
        lambda model: adapted("llama", torch.bfloat16),
    ],
    ids=["disabled", "merged", "two adapters", "hooks", "trained base", "base in bfloat16"],
)
def test_what_is_more_than_a_sum_goes_pefts_way(change):
    """To the last bit, and with PEFT's gradients where there are any."""
    model = adapted("llama")
    model = change(model) or model
    expected = model(IDS).logits
    weighed = torch.randn(expected.shape)
    trained = expected.requires_grad
    wanted = gradients(model, (expected * weighed).sum()) if trained else {}
    join_lora(model)
    found = model(IDS).logits
    assert torch.equal(found, expected)
    joined = gradients(model, (found * weighed).sum()) if trained else {}
    assert joined.keys() == wanted.keys()
    assert all(torch.equal(part, wanted[name]) for name, part in joined.items())


@pytest.mark.parametrize("options", [{"lora_dropout": 0.5}, {"use_dora": True}, {"use_rslora": True}])
def test_other_kinds_of_adapters(options):
    """The same draws of dropout, DoRA's norms, and another scaling."""
    model = adapted("llama", **options)
    loss, wanted, _ = loss_and_gradients(model)
    join_lora(model)
    found, joined, _ = loss_and_gradients(model)
    torch.testing.assert_close(found, loss, atol=1e-4, rtol=1e-5)
    assert largest_difference(joined, wanted) <= 1e-4


def test_a_copy_computes_with_its_own_weights():
    model = adapted("llama")
    join_lora(model)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            if "lora_B" in name:
                parameter.zero_()
        with model.disable_adapter():
            without = model(IDS).logits
        torch.testing.assert_close(other(IDS).logits, without, atol=1e-5, rtol=0)
        assert not torch.allclose(model(IDS).logits, without, atol=1e-3)
