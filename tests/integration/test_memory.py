"""What a training step never makes: sequence x vocabulary, M copies of the prompt, a mask for each layer."""

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dro_trl import AutoregressivePolicy, PlackettLucePolicy
from dro_trl.models.answers import AnswerScorer
from tests.helpers.tiny_models import random_generators, record_forwards, tiny_model, tiny_questions, tiny_tokenizer

VOCABULARY, HIDDEN, CANDIDATES, SELECTED, SELECTIONS = 4_000, 64, 12, 3, 16
SHAPE = {"vocab_size": VOCABULARY, "hidden_size": HIDDEN, "intermediate_size": HIDDEN}


class Sizes(TorchDispatchMode):
    """Records the shape of every tensor that an operation returns, of the backward pass too."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.shapes |= {tuple(part.shape) for part in tree_leaves(result) if isinstance(part, torch.Tensor)}
        return result

    def largest(self, of_vocabulary: bool) -> int:
        """Return the most elements of a tensor with a dimension of the vocabulary's size, or of any other one."""
        found = (shape for shape in self.shapes if (VOCABULARY in shape) == of_vocabulary)
        return max((torch.Size(shape).numel() for shape in found), default=0)


def make_policy(name: str) -> Any:
    tokenizer = tiny_tokenizer(split_digits=False)
    if name == "autoregressive":
        return AutoregressivePolicy(tokenizer, SELECTED)
    return PlackettLucePolicy(tokenizer, SELECTED, name)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["qwen2", "gemma3"])
@pytest.mark.parametrize("name", ["pointwise", "passage_end", "query_likelihood", "autoregressive"])
def test_a_step_of_the_selector(name, kind):
    """The autoregressive policy reads the prompt once, and the selections behind it twice: drawn, and in training."""
    policy = make_policy(name)
    model = tiny_model(kind, policy.tokenizer, **SHAPE).train()
    inputs = policy.encode(tiny_questions(CANDIDATES))
    forwards = record_forwards(model)
    with Sizes() as sizes:
        policy.sample(model, inputs, SELECTIONS, random_generators(1)).logps.sum().backward()
    (rows, length), (kept, _) = forwards[-1]
    prompt = len(inputs.prompt_ids[0]) if name == "autoregressive" else 0
    length += prompt
    tokens = rows * length
    # This Gemma's window is shorter than a passage with the question: rows are padded, not joined.
    assert rows == (CANDIDATES if name == "query_likelihood" and kind == "gemma3" else 1)
    assert kept < tokens / 2
    assert sum(rows * length for (rows, length), _ in forwards) <= 2 * tokens
    assert sizes.largest(of_vocabulary=True) <= max(kept, HIDDEN) * VOCABULARY < tokens * VOCABULARY
    assert sizes.largest(of_vocabulary=False) <= max(tokens * length, 2 * tokens * HIDDEN)
    assert max(tokens * length, 2 * tokens * HIDDEN) < SELECTIONS * (prompt or tokens) * HIDDEN


def test_a_step_of_the_generator():
    """Sixteen selections, four of them distinct: four prompts, and logits where their answers are predicted."""
    tokenizer = tiny_tokenizer()
    model = tiny_model("qwen2", tokenizer, **SHAPE).train()
    rows = tiny_questions(CANDIDATES)
    distinct = torch.tensor([[0, 1, 2], [2, 1, 0], [5, 6, 7], [8, 9, 10]])
    shapes = record_forwards(model)
    with Sizes() as sizes:
        logps, mask = AnswerScorer(tokenizer).logps(model, rows, distinct.repeat(SELECTIONS // 4, 1)[None])
        logps.sum().backward()
    answer = int(mask[0, 0, 0].sum())
    (num_prompts, length), (kept, _) = shapes[0]
    assert len(shapes) == 1
    assert num_prompts == 4
    assert kept == 4 * answer < length
    assert sizes.largest(of_vocabulary=True) <= max(kept, HIDDEN) * VOCABULARY < 4 * length * VOCABULARY
    assert sizes.largest(of_vocabulary=False) <= 4 * length * HIDDEN


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("kind", "masks"), [("qwen2", 0), ("qwen2", 1), ("gemma3", 2)])
def test_one_mask_for_all_layers(kind, masks, dtype, autocast, monkeypatch):
    """None where groups are multiplied out; else one of the blocks; with a window, Gemma 3 has one of the whole row
    for those layers, and one for the others."""
    if masks:
        monkeypatch.setattr("dro_trl.lm.attention.attends_by_products", lambda *given, **kwargs: False)
    policy = make_policy("pointwise")
    types = ["sliding_attention" if masks == 2 else "full_attention", "full_attention"] * 2
    model = tiny_model(kind, policy.tokenizer, num_hidden_layers=4, layer_types=types, **SHAPE).to(dtype)
    inputs = policy.encode(tiny_questions(CANDIDATES))
    length = inputs.batch.input_ids.shape[1]
    size = (length, length) if masks == 2 else inputs.batch.blocks.mask.shape[-2:]
    kept: dict[int, torch.Tensor] = {}

    def keep(saved: torch.Tensor) -> torch.Tensor:
        if saved.shape[-2:] == size:
            kept[saved.untyped_storage().data_ptr()] = saved
        return saved

    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda saved: saved),
        torch.autocast("cpu", torch.bfloat16, enabled=autocast),
    ):
        scores = policy.item_scores(model, inputs)
    assert scores.isfinite().all()
    assert len(kept) == masks
    assert {saved.dtype for saved in kept.values()} <= {torch.bfloat16 if autocast else dtype}
