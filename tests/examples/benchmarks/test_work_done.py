"""What the benchmark of work done counts, against values worked by hand."""

from collections import Counter

import pytest
import torch
import transformers
import work_done
from operations import Reads, at_size, counting, floor_operations
from packaging.version import Version
from small_models import VOCABULARY, random_model

from dro_trl.recipes.estimates.model_shapes import describe_model

HIDDEN, LAYERS, KV = 32, 2, 16
TINY = {
    "hidden_size": HIDDEN,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}
WEIGHTS = HIDDEN * (2 * HIDDEN + 2 * KV + 3 * 48)
"""Of a layer's matrices."""
N, M, ANSWER = 8, 4, 3
counts_angles = pytest.mark.skipif(
    Version(transformers.__version__) < Version("5.23"),
    reason="rotary angles are a matrix product there, which is counted with those of the layers",
)


def test_what_has_to_be_read():
    """A prompt of 3, continuations of 2 and 1: pairs 3 x 4 / 2, then 2 x 3 + 2 x 3 / 2, then 1 x 3 + 1 x 2 / 2."""
    assert Reads.of(3, [2, 1], kept=4) == Reads(tokens=6, pairs=6 + 9 + 4, kept=4)


@counts_angles
@pytest.mark.parametrize(("causal", "pairs"), [(True, 10 * 11 // 2), (False, 10 * 10)])
def test_operations_of_a_pass(causal, pairs):
    """Three times a forward pass; but attention computes five products in the backward pass and two in the forward."""
    model = random_model("qwen2", **TINY).train()
    mask = None if causal else torch.zeros(1, 1, 10, 10)
    counter, done = counting(VOCABULARY)
    with counter:
        ids = torch.arange(10)[None]
        model(input_ids=ids, attention_mask=mask, logits_to_keep=3, use_cache=False).logits.sum().backward()
    shape, _, _ = describe_model(model.config, None, trained=True, checkpointing=False)
    floor = floor_operations(shape, Reads(10, pairs, 3))
    assert done["layers"] == floor["layers"] == 3 * 2 * LAYERS * WEIGHTS * 10
    assert done["logits"] == floor["logits"] == 3 * 2 * VOCABULARY * HIDDEN * 3
    assert floor["attention"] == 3 * 4 * LAYERS * HIDDEN * pairs
    assert done["attention"] == (2 + 5) * 2 * LAYERS * HIDDEN * pairs


def test_operations_at_another_size():
    """Twice as wide: four times the weights, twice the attention and the logits; twice as deep: no more logits."""
    shape, wide, deep = (
        describe_model(random_model("qwen2", **{**TINY, **sizes}).config, None, trained=True, checkpointing=False)[0]
        for sizes in ({}, {"hidden_size": 2 * HIDDEN, "intermediate_size": 96}, {"num_hidden_layers": 2 * LAYERS})
    )
    found = Counter(layers=100, attention=10, logits=7)
    assert at_size(found, shape, shape) == found
    assert at_size(found, shape, wide) == Counter(layers=400, attention=20, logits=14)
    assert at_size(found, shape, deep) == Counter(layers=200, attention=20, logits=7)


@pytest.fixture(scope="module", params=list(work_done.POLICIES))
def found(request):
    return work_done.measure(request.param, 1, M, N, passage_tokens=10, sizes=TINY, product_size=16)


@counts_angles
def test_a_step_over_its_floor(found):
    """Beside the floor's tokens, the generator reads each answer's last token, the selector one after each passage."""
    a_token = 3 * 2 * LAYERS * WEIGHTS
    done, floor = found["done"], found["floor"]
    mean_reward = 2 * M  # The product of one reward's weight with M rewards.
    assert done["generator"]["layers"] - floor["generator"]["layers"] == M * a_token + mean_reward
    assert done["generator"]["logits"] == floor["generator"]["logits"] == 6 * VOCABULARY * HIDDEN * M * ANSWER
    more = done["selector"]["layers"] - floor["selector"]["layers"]
    if found["policy"] == "autoregressive":  # Draws behind the prompt that it has read: what is written once more.
        assert 0 < more < floor["selector"]["layers"] / 10
    else:
        assert more == (N if found["policy"] == "pointwise" else 1) * a_token
        assert done["selector"]["logits"] == floor["selector"]["logits"] == 6 * VOCABULARY * HIDDEN * N
    for name, over in found["over_floor"].items():
        assert 1 < over < 2, name


def test_what_is_written_down_of_it(found):
    assert [len(found[name]) for name in ("seconds", "rate", "product_rate")] == [1, 1, 1]
    assert found["selector_seconds"].keys() == {"1", "16"}
    if found["policy"] != "autoregressive":  # Which writes sixteen selections, and reads them again to be trained.
        assert found["m16_over_m1"]["operations"] == 1
    figures, where, computed = work_done.tables([found])
    assert figures.row_count == computed.row_count == 1
    assert where.row_count == 2 * len(work_done.KINDS)
