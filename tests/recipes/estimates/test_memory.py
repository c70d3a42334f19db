"""The memory formulas against what autograd keeps of a real forward pass, and against values worked by hand."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from dro_trl import PlackettLucePolicy
from dro_trl.lm.attention import use_blocks
from dro_trl.lm.logps import kept_logits
from dro_trl.lm.older_versions import checkpoint_activations
from dro_trl.recipes.estimates.flops import forward_flops, training_flops
from dro_trl.recipes.estimates.lengths import attention_sizes
from dro_trl.recipes.estimates.memory import (
    ModelStep,
    communication_memory,
    converted_weights,
    kept_activations,
    logits_memory,
    optimizer_bytes,
    phases,
    state_memory,
)
from dro_trl.recipes.estimates.model_shapes import describe_model
from dro_trl.recipes.estimates.quantities import Backend, Compared, ModelShape, Precision, Reading, Tuning
from tests.helpers.tiny_models import tiny_model, tiny_questions, tiny_tokenizer

SIZES = {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4, "head_dim": 8}
TYPES = ["sliding_attention", "full_attention"] * 2
TUNINGS: dict[str, Any] = {
    "full": None,
    "all-linear": "all-linear",
    "q and v": ["q_proj", "v_proj"],
    "upper half": r".*layers\.[23]\..*_proj",
}


def kept_bytes(model: Any, batch: Any, autocast: bool) -> int:
    """Return the bytes that autograd keeps of a forward pass, weights aside."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(saved: torch.Tensor) -> torch.Tensor:
        if saved.untyped_storage().data_ptr() not in weights:
            kept[saved.untyped_storage().data_ptr()] = saved
        return saved

    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda saved: saved),
        torch.autocast("cpu", torch.bfloat16, enabled=autocast),
    ):
        logits = kept_logits(model, batch)
    del logits
    return sum(saved.untyped_storage().nbytes() for saved in kept.values())


@pytest.mark.parametrize(
    ("score", "checkpointing"), [("pointwise", False), ("passage_end", False), ("passage_end", True)]
)
@pytest.mark.parametrize("precision", [Precision(), Precision(2, 2), Precision(4, 2, autocast=True)])
@pytest.mark.parametrize("tuning", TUNINGS)
@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "gemma3"])
def test_activations_are_those_that_autograd_keeps(kind, tuning, precision, score, checkpointing):
    """Within 6 %: the formula leaves out the norms' variances, the ids, and what is less in the lowest layer."""
    model: Any = tiny_model(kind, tiny_tokenizer(), **{**SIZES, "layer_types": TYPES if kind == "gemma3" else None})
    model = model.to(torch.bfloat16 if precision.weights == 2 else torch.float32).train()
    config = model.config
    lora = LoraConfig(r=2, target_modules=TUNINGS[tuning], task_type="CAUSAL_LM") if TUNINGS[tuning] else None
    shape, how, trained = describe_model(config, lora, trained=True, checkpointing=checkpointing)
    assert shape.parameters == model.num_parameters()
    if lora:
        model = get_peft_model(model, lora)
    assert trained == sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    if checkpointing:
        checkpoint_activations(model, {"use_reentrant": False})
        model.enable_input_require_grads()
    batch = PlackettLucePolicy(tiny_tokenizer(), 2, score).encode(tiny_questions(8, 8)).batch
    joined = batch.blocks is not None and use_blocks(model, batch.blocks.longest)
    rows, length = (1, len(batch.blocks.texts)) if joined else batch.input_ids.shape
    reading = Reading(rows, length, int(batch.logits_to_keep.sum()), *attention_sizes(batch.blocks))
    if checkpointing and how.full and precision.converts:
        pytest.skip("autocast's own cache keeps the layers' converted weights, and autograd nothing of them")
    found = kept_bytes(model, batch, precision.autocast)
    expected = kept_activations(shape, precision, how, reading) + converted_weights(shape, precision, how)
    assert expected == pytest.approx(found, rel=0.06)


SHAPE = ModelShape(
    hidden=10, intermediate=20, layers=4, heads=2, kv_heads=1, head_dim=5, vocabulary=100, parameters=5_000
)
"""A layer's matrices have 10 x (2 x 10 + 2 x 5 + 3 x 20) = 900 weights."""


def test_logits_worked_by_hand():
    """7 kept positions of 100 logits in bfloat16, and their gradient; they stay where all of them count."""
    assert logits_memory(SHAPE, Precision(2, 2), Reading(1, 50, 7)) == (2 * 2 * 700, 2 * 700)
    assert logits_memory(SHAPE, Precision(2, 2), Reading(1, 50, 7, token_logps=False)) == (2 * 2 * 700, 0)


@pytest.mark.parametrize(
    ("name", "weights", "gradients", "optimizer"),
    [
        ("DDP", 2_000, 2_000, 4_000),  # Everything in the weight's own two bytes.
        ("ZeRO-1", 2_000, 2_000, 3_000),  # 2 + 2 + 12 / 4 bytes for each of 1,000 weights
        ("ZeRO-2", 2_000, 500, 3_000),
        ("ZeRO-3", 500, 500, 3_000),
        ("FSDP2", 1_000, 1_000, 2_000),  # 4, 4 and 8 bytes, a quarter of each
    ],
)
def test_state_worked_by_hand(name, weights, gradients, optimizer):
    state = state_memory(1_000, 0.0, Precision(2, 2), False, "adamw_torch_fused", Backend(name, 4))
    assert state == {"weights": weights, "gradients": gradients, "optimizer": optimizer}


def test_state_of_adapters():
    """Ten float32 adapter weights on a base of 600 bytes: four bytes each, and two moments of four."""
    state = state_memory(10, 600.0, Precision(2, 2), True, "adamw_torch", Backend())
    assert state == {"weights": 640, "gradients": 40, "optimizer": 80}


@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [("adamw_torch", 8), ("adamw_bnb_8bit", 2), ("sgd", 0), ("adafactor", 0), ("lion_32bit", 4)],
)
def test_bytes_of_optimizers(optimizer, expected):
    assert optimizer_bytes(optimizer, 4) == expected


def test_an_unknown_optimizer_is_an_error():
    with pytest.raises(ValueError, match="optim='galore_x': the size of its state is not known"):
        optimizer_bytes("galore_x", 4)


def test_buffers_worked_by_hand():
    """DDP: all gradients again. ZeRO-2: two buckets. Sharded: what is gathered at a time, in the computing format."""
    assert communication_memory(300, 2_800, 4, 2, Backend("DDP", 2)) == 1_200
    assert communication_memory(300, 2_800, 4, 2, Backend("ZeRO-2", 2)) == 2_400
    assert communication_memory(300, 2_800, 4, 2, Backend("ZeRO-3", 2)) == 5_600
    assert communication_memory(300, 2_800, 4, 2, Backend()) == 0


def test_moments_worked_by_hand():
    """Selector 100 and generator 200 kept, on 1,000 that is there all the time."""
    selector = ModelStep(kept=100, forward=10, backward=20, logits=8, logits_kept=0, gradients=50, head_gradient=5)
    generator = ModelStep(kept=200, forward=30, backward=60, logits=90, logits_kept=30, gradients=70, head_gradient=7)
    assert phases(1_000, selector, generator, gradients_stay=False) == {
        "selector's forward": 1_118,
        "generator's forward": 1_330,
        "between the passes": 1_390,
        "generator's backward": 1_000 + 100 + 200 + 7 + 60 + 30,
        "selector's backward": 1_000 + 100 + 70 + 5 + 20 + 8,
        "gradients complete": 1_000 + 50 + 70 + 5,
    }
    stay = phases(1_000, selector, generator, gradients_stay=True)
    assert stay["between the passes"] == 1_390 + 120
    assert stay["gradients complete"] == 1_125


def test_operations_worked_by_hand():
    """10 tokens: 2 x 900 and 4 x 10 x 10 for attention in each of 4 layers, 3 kept positions of 1,000 weights."""
    reading = Reading(1, 10, 3, Compared(pairs=100, keys=0, repeated=10))
    layers, head = forward_flops(SHAPE, reading)
    assert (layers, head) == (10 * 4 * (1_800 + 400), 6_000)
    assert forward_flops(SHAPE, Reading(1, 10, 3))[0] == 10 * 4 * (1_800 + 200)
    in_blocks = Reading(1, 10, 3, Compared(pairs=30, keys=0, repeated=10), longest=8)
    assert forward_flops(SHAPE, in_blocks)[0] == 4 * (10 * 1_800 + 4 * 30 * 10)
    windowed = replace(SHAPE, window=7, windowed_layers=2)
    assert forward_flops(windowed, in_blocks)[0] == layers, "a mask over the whole row"
    adapters = frozenset({"q_proj"})
    assert training_flops(SHAPE, Tuning(trained=False), reading) == layers + head
    assert training_flops(SHAPE, Tuning(), reading) == 3 * layers + 3 * head
    assert training_flops(SHAPE, Tuning(adapted=adapters), reading) == 2 * layers + 2 * head
    assert training_flops(SHAPE, Tuning(adapted=adapters, first_layer=2), reading) == 1.5 * layers + 2 * head
    assert training_flops(SHAPE, Tuning(checkpointing=True), reading) == 4 * layers + 3 * head
