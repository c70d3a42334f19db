"""One packed pass against separate plain passes over every prompt with every continuation."""

import pytest
import torch

from dro_trl.lm.attention import PADDING, attention_mask
from dro_trl.lm.logps import kept_logits, token_logps
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


def random_batch(prompt_lengths: list[int], continuation_lengths: list[list[int]]):
    generator = torch.Generator().manual_seed(0)

    def tokens(length: int) -> list[int]:
        return torch.randint(3, 350, (length,), generator=generator).tolist()

    return [tokens(n) for n in prompt_lengths], [[tokens(n) for n in row] for row in continuation_lengths]


def naive_logps(model, prompt: list[int], rest: list[int]) -> torch.Tensor:
    """log p(token | prompt, tokens before it) of every continuation token, from the logits at all positions."""
    logits = model(input_ids=torch.tensor([prompt + rest])).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1).gather(-1, torch.tensor(rest)[:, None])[:, 0]


def assert_equal_to_separate_passes(model, packed: torch.Tensor, prompts: list, rests: list) -> None:
    """Compare (B, C, T) log-probabilities, and the gradients of a random sum of them, with one pass for each."""
    naive = torch.zeros_like(packed)
    for b, (prompt, row) in enumerate(zip(prompts, rests, strict=True)):
        for c, rest in enumerate(row):
            naive[b, c, : len(rest)] = naive_logps(model, prompt, rest)
    torch.testing.assert_close(packed, naive, atol=1e-4, rtol=0)
    coefficients = torch.randn(packed.shape, generator=torch.Generator().manual_seed(1))
    found, wanted = (gradients(model, (coefficients * logps).sum()) for logps in (packed, naive))
    assert largest_difference(wanted, found) <= 1e-4


@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", MODEL_TYPES)
def test_packed_pass_equals_separate_passes(kind, attention, separate):
    """Prompts shorter and longer than the sliding window, continuations of 1 to 20 tokens, rows of 3, 1 and 2.

    In a row with their prompt, or each in a row of its own.
    """
    model = tiny_model(kind, tiny_tokenizer(), attention)
    prompts, rests = random_batch([40, 7, 23], [[5, 1, 20], [3], [20, 2]])
    assert max(map(len, prompts)) > WINDOW > min(map(len, prompts))
    batch = pack(prompts, rests, separate=separate)
    assert len(batch.input_ids) == (6 if separate else 3)
    packed = token_logps(model, batch)
    assert packed.shape == (3, 3, 20)
    assert batch.target_mask.sum(-1).tolist() == [[5, 1, 20], [3, 0, 0], [20, 2, 0]]
    assert packed[~batch.target_mask].abs().max() == 0
    assert_equal_to_separate_passes(model, packed, prompts, rests)


@pytest.mark.parametrize(("attention", "second"), [("eager", 5), ("sdpa", 25)])
@pytest.mark.parametrize("kind", ["llama", "gemma3"])
def test_single_continuations_need_no_mask(kind, attention, second):
    """One continuation a row is causal attention: the model gets no mask, with rows of one length or of several."""
    model = tiny_model(kind, tiny_tokenizer(), attention)
    prompts, rests = random_batch([30, second], [[4], [9]])
    seen = []
    model.register_forward_pre_hook(lambda module, args, kwargs: seen.append(set(kwargs)), with_kwargs=True)
    found = token_logps(model, pack(prompts, rests))
    assert seen == [{"input_ids", "logits_to_keep", "use_cache"}]
    for b in range(2):
        expected = naive_logps(model, prompts[b], rests[b][0])
        torch.testing.assert_close(found[b, 0, : len(expected)], expected, atol=1e-4, rtol=0)


def test_layout_worked_by_hand():
    """Prompt 7 8, continuations 1 2 3 and 4: tokens 7 8 1 2 3 4 at positions 0 1 2 3 4 2, in segments 0 0 1 1 1 2.

    1 and 4 are predicted by the prompt's end, 2 by 1 and 3 by 2: positions 1, 2 and 3 are kept, as numbers 0, 1, 2.
    The second row is prompt 9 with continuation 5, padded, and keeps its position 0 as number 3.
    """
    batch = pack([[7, 8], [9]], [[[1, 2, 3], [4]], [[5]]])
    assert batch.input_ids.tolist() == [[7, 8, 1, 2, 3, 4], [9, 5, 0, 0, 0, 0]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 4, 2], [0, 1, 0, 0, 0, 0]]
    assert batch.segments.tolist() == [[0, 0, 1, 1, 1, 2], [0, 1, *[PADDING] * 4]]
    assert batch.logits_to_keep.int().tolist() == [[0, 1, 1, 1, 0, 0], [1, 0, 0, 0, 0, 0]]
    assert batch.sources.tolist() == [[[0, 1, 2], [0, 0, 0]], [[3, 0, 0], [0, 0, 0]]]
    assert batch.targets.tolist() == [[[1, 2, 3], [4, 0, 0]], [[5, 0, 0], [0, 0, 0]]]
    assert batch.target_mask.int().tolist() == [[[1, 1, 1], [1, 0, 0]], [[1, 0, 0], [0, 0, 0]]]


def test_layout_of_separate_rows_worked_by_hand():
    """The same, each continuation behind a copy of its prompt: rows 7 8 1 2 3, then 7 8 4, then 9 5, of segments 0, 1.

    Positions 1, 2 and 3 of the first row are kept as numbers 0, 1, 2; one of each other row as numbers 3 and 4.
    """
    batch = pack([[7, 8], [9]], [[[1, 2, 3], [4]], [[5]]], separate=True)
    assert batch.input_ids.tolist() == [[7, 8, 1, 2, 3], [7, 8, 4, 0, 0], [9, 5, 0, 0, 0]]
    assert batch.segments.tolist() == [[0, 0, 1, 1, 1], [0, 0, 1, *[PADDING] * 2], [0, 1, *[PADDING] * 3]]
    assert batch.logits_to_keep.int().tolist() == [[0, 1, 1, 1, 0], [0, 1, 0, 0, 0], [1, 0, 0, 0, 0]]
    assert batch.sources.tolist() == [[[0, 1, 2], [3, 0, 0]], [[4, 0, 0], [0, 0, 0]]]
    assert batch.targets.tolist() == [[[1, 2, 3], [4, 0, 0]], [[5, 0, 0], [0, 0, 0]]]


def test_scored_tokens_only():
    """Of 1 2 3 and 4, only 2 and 4 are wanted: two kept positions, and the log-probabilities that all would have."""
    model = tiny_model("llama", tiny_tokenizer())
    prompts, rests = [[7, 8], [9]], [[[1, 2, 3], [4]], [[5, 6]]]
    some = pack(prompts, rests, [[[False, True, False], [True]], [[False, False]]])
    assert some.targets.tolist() == [[[2], [4]], [[0], [0]]]
    assert some.logits_to_keep.sum(1).tolist() == [2, 0]
    shapes = record_forwards(model)
    found = token_logps(model, some)
    assert shapes == [((1, 6 + 3), (2, len(tiny_tokenizer())))]
    every = token_logps(model, pack(prompts, rests))
    torch.testing.assert_close(found[0, :, 0], torch.stack([every[0, 0, 1], every[0, 1, 0]]))
    assert found[1].tolist() == [[0.0], [0.0]]


def test_logits_of_kept_positions_only():
    """Prompts of 40 and 30 tokens, continuations of 5, 2 and 4: 1 + 4 + 1 kept in the first row, 4 in the second."""
    tokenizer = tiny_tokenizer()
    model = tiny_model("llama", tokenizer)
    prompts, rests = random_batch([40, 30], [[5, 2], [4]])
    shapes = record_forwards(model)
    assert kept_logits(model, pack(prompts, rests)).shape == (6 + 4, len(tokenizer))
    assert shapes == [((1, 40 + 7 + 30 + 4), (10, len(tokenizer)))]


@pytest.mark.parametrize(("prompts", "rests"), [([[]], [[[1]]]), ([[1]], [[[]]]), ([[1]], [[[2], []]])])
def test_nothing_may_be_empty(prompts, rests):
    with pytest.raises(ValueError, match="row 1: a prompt and each of its continuations need at least one token"):
        pack([[1], *prompts], [[[2]], *rests])


def test_mask_worked_by_hand():
    """Prompt of two tokens, continuations of two and one, one padding; a window of two for the sliding layers.

    Each token sees the prompt and its own continuation up to itself; the window takes what is two or more back.
    """
    model = tiny_model("gemma3", tiny_tokenizer(), sliding_window=2)
    segments = torch.tensor([[0, 0, 1, 1, 2, PADDING]])
    positions = torch.tensor([[0, 1, 2, 3, 2, 0]])
    masks = attention_mask(model, segments, positions, segments, positions)
    full = [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 0, 0, 1, 0],
    ]
    windowed = [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [0, 1, 1, 0, 0, 0],
        [0, 0, 1, 1, 0, 0],
        [0, 1, 0, 0, 1, 0],
    ]
    for name, expected in (("full_attention", full), ("sliding_attention", windowed)):
        mask = masks[name][0, 0].int().tolist()
        assert mask[:5] == expected
        assert mask[5][5] == 1, "the softmax over what a padding token sees must not be empty"
    eager = attention_mask(tiny_model("llama", tiny_tokenizer(), "eager"), segments, positions, segments, positions)
    assert (eager[0, 0, :5] == 0).int().tolist() == full
    assert eager.min() == torch.finfo(torch.float32).min


def test_attention_without_block_masks_is_an_error():
    model = tiny_model("llama", tiny_tokenizer())
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(
        ValueError, match=r"attn_implementation='flash_attention_2' of llama takes no block mask.*sdpa"
    ):
        token_logps(model, pack([[1, 2]], [[[3], [4]]]))


def test_layers_without_block_masks_are_an_error():
    model = tiny_model("qwen3", tiny_tokenizer())
    model.config.layer_types = ["full_attention", "linear_attention"]
    with pytest.raises(ValueError, match=r"qwen3 has layers of type \['linear_attention'\]"):
        token_logps(model, pack([[1, 2]], [[[3], [4]]]))
