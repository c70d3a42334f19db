"""Attention block by block against one mask over the whole row."""

import json

import pytest
import torch

from dro_trl.lm import attention
from dro_trl.lm.attention import NAME, blocks_of
from dro_trl.lm.logps import token_logps
from dro_trl.lm.older_versions import checkpoint_activations
from dro_trl.lm.packing import pack
from tests.helpers.tiny_models import (
    MODEL_TYPES,
    WINDOW,
    gradients,
    largest_difference,
    record_forwards,
    tiny_model,
    tiny_tokenizer,
)
from tests.lm.test_packing import assert_equal_to_separate_passes, random_batch


def decide(monkeypatch, in_rows):
    """Have continuations in rows of their own, or against their text, whichever is faster."""
    monkeypatch.setattr(attention, "_in_own_rows", lambda *lengths: in_rows)


@pytest.mark.parametrize("in_rows", [True, False])
@pytest.mark.parametrize("kind", MODEL_TYPES)
def test_blocks_equal_separate_passes(kind, in_rows, monkeypatch):
    """Prompts of 9, 2 and 5 tokens, continuations of 1 to 6, texts of 3, 1 and 2; every path is within the window."""
    decide(monkeypatch, in_rows)
    model = tiny_model(kind, tiny_tokenizer())
    prompts, rests = random_batch([9, 2, 5], [[5, 1, 6], [3], [6, 2]])
    assert max(map(len, prompts)) + 6 <= WINDOW
    batch = pack(prompts, rests)
    assert len(batch.blocks.queries) == (5 if in_rows else 2)
    shapes = record_forwards(model)
    found = token_logps(model, batch)
    assert shapes[0][0] == (1, 9 + 12 + 2 + 3 + 5 + 8), "one row, without padding"
    assert model.config.get_text_config()._attn_implementation == NAME
    assert_equal_to_separate_passes(model, found, prompts, rests)


@pytest.mark.parametrize("kind", MODEL_TYPES)
def test_rows_of_several_lengths_are_not_padded(kind):
    """Three prompts of one continuation each, as a generator reads them."""
    model = tiny_model(kind, tiny_tokenizer())
    prompts, rests = random_batch([9, 2, 5], [[5], [3], [6]])
    shapes = record_forwards(model)
    found = token_logps(model, pack(prompts, rests))
    assert [shape for shape, _ in shapes] == [(1, 14 + 5 + 11)]
    assert_equal_to_separate_passes(model, found, prompts, rests)


def test_rows_behind_prompts_worked_by_hand(monkeypatch):
    """Prompt of tokens 0 1, continuations 2 3 4 and 5; then prompt 6 with continuations 7 8 and 9.

    Prompts end in the second column of the keys, so that the second one's first column holds nothing to see.
    """
    decide(monkeypatch, in_rows=True)
    blocks = blocks_of([2, 1], [[3, 1], [2, 1]])
    assert blocks.longest == 5
    assert blocks.texts.tolist() == [0] * 6 + [1] * 4
    assert blocks.columns.tolist() == [0, 1, 2, 3, 4, 5, 0, 1, 2, 3]
    assert blocks.prompts.tolist() == [[0, 1], [6, 6]]
    assert blocks.queries.tolist() == [[2, 3, 4], [5, 5, 5], [7, 8, 8], [9, 9, 9]]
    assert blocks.keys.tolist() == [[0, 1, 2, 3, 4], [0, 1, 5, 5, 5], [6, 6, 7, 8, 8], [6, 6, 9, 9, 9]]
    own = [[1, 0, 0], [1, 1, 0], [1, 1, 1]]
    assert blocks.mask.int().tolist() == [[[[first, 1, *row] for row in own]] for first in (1, 1, 0, 0)]
    # Results of the prompts' columns are 0 1 and 2 3, those of the queries 4 to 15, three a group.
    assert blocks.places.tolist() == [0, 1, 4, 5, 6, 7, 2, 10, 11, 13]
    assert blocks_of([2], [[3, 1]]).mask.shape == (1, 1, 3, 5), "prompts of one length need one mask"


def test_a_single_continuation_is_a_part_of_its_prompt():
    """Prompt 0 1 with continuation 2 3, then prompt 4 with 5: two causal texts."""
    blocks = blocks_of([2, 1], [[2], [1]])
    assert blocks.prompts.tolist() == [[0, 1, 2, 3], [4, 5, 5, 5]]
    assert blocks.queries is blocks.keys is blocks.mask is None
    assert blocks.places.tolist() == [0, 1, 2, 3, 4, 5]


def test_against_texts_worked_by_hand(monkeypatch):
    """Prompt of 5 tokens with three continuations of 1, 2 and 1: copies of the prompt would be 21 tokens for 9."""
    decide(monkeypatch, in_rows=False)
    blocks = blocks_of([5], [[1, 2, 1]])
    assert blocks.keys.tolist() == [[*range(9)]]
    assert blocks.queries.tolist() == [[5, 6, 7, 8]]
    assert blocks.mask[0, 0].int().tolist() == [
        [1, 1, 1, 1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 1, 0, 1, 0, 0],
        [1, 1, 1, 1, 1, 0, 1, 1, 0],
        [1, 1, 1, 1, 1, 0, 0, 0, 1],
    ]
    assert blocks.places.tolist() == [*range(9)]
    two = blocks_of([5, 5], [[1, 2, 1], [1, 1]])
    assert two.keys[1].tolist() == [*range(9, 16), 15, 15]
    assert two.queries[1].tolist() == [14, 15, 15, 15]
    assert two.mask[1, 0, 1].int().tolist() == [1, 1, 1, 1, 1, 0, 1, 0, 0], "a token does not see itself three times"


@pytest.mark.parametrize(
    ("prompts", "rests", "in_rows"),
    [
        ([30], [[100] * 20], True),  # Passages behind a question: few copies, and nineteen of twenty pairs are hidden.
        ([26] * 8, [[28] * 8] * 8, True),  # Twice the keys, a fifth of the pairs.
        ([2_000], [[10] * 8], False),  # Answers behind passages: eight times the keys.
        ([500] * 4, [[10] * 16] * 4, False),
        ([30], [[1_000] + [10] * 19], False),  # One long one would fill up all the others.
        ([5], [[1, 1]], False),
    ],
)
def test_copies_are_made_where_they_are_less_work(prompts, rests, in_rows):
    blocks = blocks_of(prompts, rests)
    assert len(blocks.queries) == (sum(map(len, rests)) if in_rows else len(prompts))


@pytest.mark.parametrize(("kind", "prompt_length"), [("gemma3", 20), ("mistral", 20)])
def test_a_window_shorter_than_a_path_takes_the_mask(kind, prompt_length):
    model = tiny_model(kind, tiny_tokenizer())
    assert prompt_length + 3 > WINDOW
    token_logps(model, pack(*random_batch([prompt_length], [[3, 2]])))
    assert model.config._attn_implementation == "sdpa"


def test_activations_made_again_are_the_same():
    model = tiny_model("gemma3", tiny_tokenizer()).train()
    batch = pack(*random_batch([9, 2], [[5, 1, 6], [3]]))
    kept = gradients(model, token_logps(model, batch).sum())
    checkpoint_activations(model, {"use_reentrant": False})
    assert largest_difference(kept, gradients(model, token_logps(model, batch).sum())) <= 1e-6


def test_a_saved_model_does_not_ask_for_it(tmp_path):
    model = tiny_model("llama", tiny_tokenizer())
    token_logps(model, pack(*random_batch([9], [[5, 1]])))
    model.save_pretrained(tmp_path)
    assert NAME not in json.dumps(json.loads((tmp_path / "config.json").read_text()))


def test_a_model_that_hands_nothing_on(monkeypatch):
    """Where a model says so, the mask is taken; where it does not say so, it is an error and not another result."""
    model = tiny_model("llama", tiny_tokenizer())
    batch = pack(*random_batch([9], [[5, 1]]))
    expected = token_logps(model, batch)
    monkeypatch.setattr(type(model), "_supports_attention_backend", False)
    torch.testing.assert_close(token_logps(model, batch), expected, atol=1e-4, rtol=0)
    monkeypatch.undo()
    forward = model.model.forward
    monkeypatch.setattr(model.model, "forward", lambda *args, blocks, **kwargs: forward(*args, **kwargs))
    with pytest.raises(RuntimeError, match="LlamaAttention does not hand the mask and keyword arguments on.*eager"):
        token_logps(model, batch)
