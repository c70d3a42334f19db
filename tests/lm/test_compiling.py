"""`torch_compile`: layers are compiled, without breaks in the graph, and no number changes."""

import copy

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from dro_trl import evidence_recall_reward
from dro_trl.lm import older_versions
from dro_trl.lm.compiling import compile_layers
from dro_trl.policies.autoregressive import AutoregressivePolicy
from tests.helpers.tiny_models import (
    gradients,
    largest_difference,
    random_generators,
    tiny_model,
    tiny_questions,
    tiny_tokenizer,
)
from tests.helpers.training import LORA, logged, make_trainer, weights_of

AUTOREGRESSIVE = "dro_trl.AutoregressivePolicy"


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()


def trained(folder, **options):
    trainer = make_trainer(folder, max_steps=2, **options)
    trainer.train()
    return logged(trainer, "loss"), logged(trainer, "reward"), weights_of(trainer)


slow = pytest.mark.slow


@pytest.mark.parametrize(
    "options",
    [
        {"peft_config": LORA, "activation_checkpointing": True},
        pytest.param({"policy": AUTOREGRESSIVE, "num_iterations": 2}, marks=slow),
        pytest.param({"peft_config": LORA, "shared_base": True}, marks=slow),
        pytest.param({"bf16": True, "loss_type": "ppo", "kl_coef": 0.1, "peft_config": LORA}, marks=slow),
        pytest.param({"torch_compile_backend": "inductor"}, marks=slow),
    ],
    ids=["checkpointing", "autoregressive", "shared_base", "ppo", "inductor"],
)
def test_compiled_layers_change_no_number(tmp_path, options):
    plain = trained(tmp_path / "plain", **{**options, "torch_compile_backend": None})
    assert not counters["stats"]
    compiled = trained(tmp_path / "compiled", **{"torch_compile_backend": "aot_eager", **options})
    assert 1 <= counters["stats"]["unique_graphs"] <= 16
    assert not counters["graph_break"]
    assert compiled[0] == pytest.approx(plain[0], abs=1e-4)
    assert compiled[1] == pytest.approx(plain[1], abs=1e-4)
    for name, weight in plain[2].items():
        torch.testing.assert_close(compiled[2][name], weight, atol=1e-5, rtol=1e-4)


def test_accelerate_launch_compiles_layers_too(tmp_path, monkeypatch):
    """Which asks for graphs of a fixed length where it is not told otherwise: one for each question here."""
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "EAGER")
    monkeypatch.setenv("ACCELERATE_DYNAMO_USE_DYNAMIC", "False")
    options = {"per_device_train_batch_size": 1, "train_generator": False, "reward_funcs": [evidence_recall_reward]}
    make_trainer(tmp_path, max_steps=6, **options).train()
    assert 1 <= counters["stats"]["unique_graphs"] <= 2
    assert not counters["graph_break"]


def test_a_cache_leaves_layers_as_they_were():
    model, ids = tiny_model("llama", tiny_tokenizer()).eval(), torch.tensor([[5, 6, 7]])
    expected = model.generate(ids, do_sample=False, max_new_tokens=4)
    compile_layers(model, backend="aot_eager")
    assert torch.equal(model.generate(ids, do_sample=False, max_new_tokens=4), expected)
    assert not counters["stats"]
    model(ids, use_cache=False)
    assert counters["stats"]["unique_graphs"] == 1


@pytest.mark.parametrize("kind", ["llama", pytest.param("gemma3", marks=slow)])
def test_what_is_written_behind_prompts_is_compiled(kind):
    """A draw with gradient: the same graphs for every layer, before and behind prompts, with gradient and without."""
    tokenizer = tiny_tokenizer()
    policy, model = AutoregressivePolicy(tokenizer, 3), tiny_model(kind, tokenizer).train()
    compiled = copy.deepcopy(model)
    compile_layers(compiled, backend="aot_eager")
    found = []
    for each in (model, compiled):
        sample = policy.sample(each, policy.encode(tiny_questions(12, 4)), 4, random_generators(2))
        found.append((sample, gradients(each, sample.logps.sum())))
    assert not counters["graph_break"]
    assert 1 <= counters["stats"]["unique_graphs"] <= 6
    (plain, wanted), (sample, joined) = found
    assert torch.equal(sample.selections, plain.selections)
    torch.testing.assert_close(sample.logps, plain.logps, atol=1e-5, rtol=1e-5)
    assert largest_difference(wanted, {name.replace("_orig_mod.", ""): part for name, part in joined.items()}) <= 1e-5


def test_a_copy_computes_with_its_own_weights():
    model, ids = tiny_model("llama", tiny_tokenizer()), torch.tensor([[5, 6, 7]])
    compile_layers(model, backend="eager")
    copied = copy.deepcopy(model)
    for layer in copied.model.layers:
        nn.init.zeros_(layer.mlp.down_proj.weight)
    found, changed = (each(ids, use_cache=False).logits for each in (model, copied))
    assert not torch.equal(found, changed)
    torch.testing.assert_close(model(ids).logits, found)


def test_a_model_without_layers_is_refused():
    with pytest.raises(ValueError, match=r"torch_compile=True: Linear does not say which .* set it to False"):
        compile_layers(nn.Linear(2, 2))


def test_a_torch_whose_graphs_do_not_hold_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(older_versions, "IS_TORCH_2_9", True)
    with pytest.raises(ValueError, match=r"^torch_compile=True needs a newer torch than .* set it to False"):
        make_trainer(tmp_path, torch_compile=True)
    make_trainer(tmp_path, torch_compile_backend="eager")
