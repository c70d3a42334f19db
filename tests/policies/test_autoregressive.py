"""The constrained writing of selections, against a decoder that runs every choice of every selection by itself."""

import pytest
import torch
from torch import Tensor

from dro_trl.lm import encoding
from dro_trl.lm.older_versions import checkpoint_activations
from dro_trl.policies.autoregressive import AutoregressivePolicy, Path
from tests.helpers.tiny_models import (
    MODEL_TYPES,
    gradients,
    largest_difference,
    random_generators,
    record_forwards,
    tiny_model,
    tiny_questions,
    tiny_tokenizer,
)


def naive_choices(policy: AutoregressivePolicy, model, row, selection: list[int]) -> Tensor:
    """The log-probability of each choice, (K,), in one plain pass over the prompt and the written selection."""
    (prompt,) = policy.encode([row]).prompt_ids
    text = ["", *(f" > [{i + 1}]" for i in range(len(row["candidates"])))]
    first = [encoding.encode(policy.tokenizer, f" [{i + 1}]") for i in range(len(row["candidates"]))]
    later = [encoding.encode(policy.tokenizer, text[i + 1]) for i in range(len(row["candidates"]))]
    written = sum((first[z] if k == 0 else later[z] for k, z in enumerate(selection)), [])
    logits = model(input_ids=torch.tensor([prompt + written])).logits[0, len(prompt) - 1 :]
    place, choices = 0, []
    for k, item in enumerate(selection):
        names = {i: (later if k else first)[i] for i in range(len(row["candidates"])) if i not in selection[:k]}
        choice = torch.zeros(())
        for depth, token in enumerate(names[item]):
            beginning = names[item][:depth]
            allowed = sorted({ids[depth] for ids in names.values() if ids[:depth] == beginning})
            choice = choice + logits[place, allowed].log_softmax(-1)[allowed.index(token)]
            place += 1
        choices.append(choice)
    return torch.stack(choices)


def random_selections(size: int, num_selected: int, num: int) -> Tensor:
    generator = torch.Generator().manual_seed(size)
    return torch.stack([torch.randperm(size, generator=generator)[:num_selected] for _ in range(num)])


def compare_with_separate_passes(model, tokenizer, size: int) -> None:
    """Values and gradients of K choices for 3 selections, N candidates, beside a row of another length."""
    policy, rows = AutoregressivePolicy(tokenizer, 3), tiny_questions(size, 5)
    selections = torch.stack([random_selections(size, 3, 3), random_selections(5, 3, 3)])
    selections[0, 0] = torch.tensor([size - 1, 0, 1])  # "[12]" before "[1]", which begins like it.
    together = policy.logps(model, policy.encode(rows), selections).logps
    apart = torch.stack(
        [
            torch.stack([naive_choices(policy, model, row, z).sum() for z in drawn])
            for row, drawn in zip(rows, selections.tolist(), strict=True)
        ]
    )
    torch.testing.assert_close(together, apart, atol=1e-4, rtol=0)
    coefficients = torch.tensor([[1.0, -2.0, 0.5], [0.3, 1.0, -1.0]])
    packed, naive = (gradients(model, (coefficients * logps).sum()) for logps in (together, apart))
    assert largest_difference(naive, packed) <= 1e-4


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", MODEL_TYPES)
def test_one_pass_equals_separate_passes(kind, attention):
    tokenizer = tiny_tokenizer()
    for size in (4, 12):
        compare_with_separate_passes(tiny_model(kind, tokenizer, attention), tokenizer, size)


@pytest.mark.parametrize(("split_digits", "chat"), [(True, False), (False, False), (True, True)])
@pytest.mark.parametrize("kind", ["llama", "gemma3"])
def test_one_pass_equals_separate_passes_for_fifty_candidates(kind, split_digits, chat):
    tokenizer = tiny_tokenizer(split_digits, chat)
    compare_with_separate_passes(tiny_model(kind, tokenizer), tokenizer, 50)


@pytest.mark.parametrize("split_digits", [True, False])
@pytest.mark.parametrize("kind", MODEL_TYPES)
def test_cache_of_the_draw_equals_the_training_pass(kind, split_digits):
    tokenizer = tiny_tokenizer(split_digits)
    policy, model = AutoregressivePolicy(tokenizer, 3), tiny_model(kind, tokenizer)
    with torch.no_grad():
        sample = policy.sample(model, policy.encode(tiny_questions(12, 4)), 5, random_generators(2))
    torch.testing.assert_close(sample.behavior_logps, sample.logps, atol=1e-4, rtol=0)
    assert sample.logps.std() > 0.1


def test_eager_cache_equals_the_training_pass():
    tokenizer = tiny_tokenizer()
    policy, model = AutoregressivePolicy(tokenizer, 3), tiny_model("gemma3", tokenizer, "eager")
    with torch.no_grad():
        sample = policy.sample(model, policy.encode(tiny_questions(12, 4)), 5, random_generators(2))
    torch.testing.assert_close(sample.behavior_logps, sample.logps, atol=1e-4, rtol=0)


def test_drawing_under_gradient_checkpointing():
    """Checkpointed layers keep no cache in training mode; the draw must not depend on the mode."""
    tokenizer = tiny_tokenizer()
    policy, model = AutoregressivePolicy(tokenizer, 2), tiny_model("llama", tokenizer)
    inputs = policy.encode(tiny_questions(5))
    expected = policy.sample(model, inputs, 4, random_generators(1))
    expected_gradients = gradients(model, expected.logps.sum())
    checkpoint_activations(model, {})
    model.train()
    sample = policy.sample(model, inputs, 4, random_generators(1))
    assert sample.selections.tolist() == expected.selections.tolist()
    torch.testing.assert_close(sample.behavior_logps, expected.behavior_logps, atol=1e-4, rtol=0)
    assert model.training
    model.zero_grad()
    sample.logps.sum().backward()
    checkpointed = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert largest_difference(expected_gradients, checkpointed) <= 1e-4


def test_prompt_is_computed_once():
    """A training pass reads P + M T tokens, for a prompt of P; a draw P, what all begin with, and M T', up to the last
    choice.

    Without gradient a draw knows its log-probabilities; with it, they come from the M T' tokens read once more.
    """
    tokenizer = tiny_tokenizer()
    policy, row = AutoregressivePolicy(tokenizer, 2), tiny_questions(4)
    prompt_length = len(policy.encode(row).prompt_ids[0])
    path = Path.of(policy, 4, [2, 0])
    begun, last = path.open
    for num in (2, 16):
        model = tiny_model("llama", tokenizer)
        shapes = record_forwards(model)
        policy.logps(model, policy.encode(row), torch.tensor([2, 0]).expand(1, num, 2))
        assert shapes == [((1, prompt_length + num * len(path.tokens)), shapes[0][1])]
        shapes.clear()
        with torch.no_grad():
            policy.sample(model, policy.encode(row), num, random_generators(1))
        drawn = [(1, prompt_length + begun), (1, num * (last - begun))]
        assert [shape for shape, _ in shapes] == drawn
        shapes.clear()
        policy.sample(model, policy.encode(row), num, random_generators(1))
        assert [shape for shape, _ in shapes] == [*drawn, drawn[-1]]


def sample_gradients(policy, model, rows, num=4):
    """A draw and the gradients of its log-probabilities and entropies, weighed at random."""
    sample = policy.sample(model, policy.encode(rows), num, random_generators(len(rows)))
    weights = torch.randn(sample.logps.shape, generator=torch.Generator().manual_seed(0))
    return sample, gradients(model, (weights * sample.logps).sum() + 0.3 * sample.entropy.sum())


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", MODEL_TYPES)
def test_a_draw_with_gradient_equals_a_training_pass(kind, attention):
    """Values and gradients through the prompts' keys, for questions of several lengths, identifiers of two tokens."""
    tokenizer = tiny_tokenizer()
    policy, model = AutoregressivePolicy(tokenizer, 3), tiny_model(kind, tokenizer, attention).train()
    rows = tiny_questions(12, 4, 7)
    found, through_keys = sample_gradients(policy, model, rows)
    again = policy.logps(model, policy.encode(rows), found.selections)
    weights = torch.randn(found.logps.shape, generator=torch.Generator().manual_seed(0))
    wanted = gradients(model, (weights * again.logps).sum() + 0.3 * again.entropy.sum())
    torch.testing.assert_close(found.logps, again.logps, atol=1e-4, rtol=0)
    torch.testing.assert_close(found.entropy, again.entropy, atol=1e-4, rtol=0)
    assert largest_difference(through_keys, wanted) <= 1e-4
    assert model.training


@pytest.mark.parametrize("cause", ["checkpointing", "dropout", "attention dropout"])
def test_where_the_prompt_has_to_be_read_again(cause):
    """Where a layer keeps no keys in training, or drops what it keeps in evaluation."""
    tokenizer = tiny_tokenizer()
    policy, model = AutoregressivePolicy(tokenizer, 2), tiny_model("llama", tokenizer).train()
    whole = len(policy.encode(tiny_questions(5)).prompt_ids[0])
    shapes = record_forwards(model)
    expected, once = sample_gradients(policy, model, tiny_questions(5))
    assert sum(length > whole for (_, length), _ in shapes) == 1
    shapes.clear()
    if cause == "checkpointing":
        checkpoint_activations(model, {"use_reentrant": False})
    elif cause == "dropout":
        model.model.layers[0].mlp.register_module("dropout", torch.nn.Dropout(0.1))
    else:
        model.model.layers[0].self_attn.attention_dropout = 1e-9
    found, twice = sample_gradients(policy, model, tiny_questions(5))
    assert sum(length > whole for (_, length), _ in shapes) == 2
    assert found.selections.tolist() == expected.selections.tolist()
    assert largest_difference(once, twice) <= 1e-4


def test_a_draw_of_one_choice_reads_the_prompt_alone():
    """K = 1: the only choice is read off the prompt; of a question of one candidate there is nothing to learn."""
    tokenizer = tiny_tokenizer(split_digits=False)
    policy, model = AutoregressivePolicy(tokenizer, 1), tiny_model("llama", tokenizer)
    shapes = record_forwards(model)
    sample, found = sample_gradients(policy, model, tiny_questions(4, 1))
    assert len(shapes) == 1
    assert any(part.abs().sum() > 0 for part in found.values())
    assert sample.logps[1].tolist() == [0.0] * 4
    _, nothing = sample_gradients(policy, model, tiny_questions(1))
    assert all(part.abs().sum() == 0 for part in nothing.values())


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_a_draw_knows_its_log_probabilities(temperature):
    """Those of a training pass, and its entropies, for questions of several sizes with identifiers of two tokens."""
    policy, model = AutoregressivePolicy(tiny_tokenizer(), 3), tiny_model("qwen2", tiny_tokenizer())
    inputs = policy.encode(tiny_questions(4, 12))
    with torch.no_grad():
        drawn = policy.sample(model, inputs, 6, random_generators(2), temperature)
        scored = policy.logps(model, inputs, drawn.selections)
    torch.testing.assert_close(drawn.logps, scored.logps, atol=1e-5, rtol=0)
    torch.testing.assert_close(drawn.entropy, scored.entropy, atol=1e-5, rtol=0)
    assert torch.allclose(drawn.behavior_logps, drawn.logps, atol=1e-5) == (temperature == 1)


def test_logits_are_made_for_open_choices_only():
    """ " [3] > [1]" leaves two tokens open, "3" and "1": one kept position for each, never one per token."""
    tokenizer = tiny_tokenizer()
    policy, model = AutoregressivePolicy(tokenizer, 2), tiny_model("llama", tokenizer)
    shapes = record_forwards(model)
    policy.logps(model, policy.encode(tiny_questions(4)), torch.tensor([[[2, 0], [1, 3], [0, 1]]]))
    assert [logits for _, logits in shapes] == [(6, len(tokenizer))]
    shapes.clear()
    with torch.no_grad():
        policy.sample(model, policy.encode(tiny_questions(4)), 5, random_generators(1))
    assert max(logits[0] * (logits[1] if len(logits) == 3 else 1) for _, logits in shapes) == 5
    assert all(logits[-1] == len(tokenizer) for _, logits in shapes)


def test_choice_by_choice_probabilities():
    """With "12" in two tokens, [12] is chosen by "1" against "2" ... "9", then "2" against "]", "0" and "1"."""
    policy = AutoregressivePolicy(tiny_tokenizer(), 2)
    tokens = policy.tokenizer.convert_ids_to_tokens
    path = Path.of(policy, 12, [11, 0])
    assert "".join(tokens(path.tokens)).replace("Ġ", " ") == " [12] > [1]"
    opened = {i: tokens(allowed) for i, allowed in enumerate(path.allowed) if len(allowed) > 1}
    second = len(policy.choice_ids(11, first=True)) + len(policy.choice_ids(0, first=False)) - 2
    assert {i: sorted(names) for i, names in opened.items()} == {
        1: list("123456789"),
        2: sorted("012]"),
        second: list("123456789"),
        second + 1: sorted("01]"),
    }
    assert path.selection == [11, 0]
    assert path.branches == []


def test_whole_numbers_are_one_choice():
    policy = AutoregressivePolicy(tiny_tokenizer(split_digits=False), 2)
    path = Path.of(policy, 12, [11, 0])
    assert [len(allowed) for allowed in path.allowed if len(allowed) > 1] == [12, 11]


@pytest.mark.parametrize("first_is_open", [True, False])
def test_identifiers_without_forced_text(first_is_open):
    """The first choice may be read off the prompt's own logits; a draw then scores as in the training pass."""
    tokenizer = tiny_tokenizer()
    policy, model, row = AutoregressivePolicy(tokenizer, 3), tiny_model("llama", tokenizer), tiny_questions(5)
    letters = tokenizer.convert_tokens_to_ids(list("ABCDE"))
    for item, letter in enumerate(letters):
        policy._choice_ids[item, True] = [letter] if first_is_open else [7, letter]
        policy._choice_ids[item, False] = [letter]
    with torch.no_grad():
        sample = policy.sample(model, policy.encode(row), 6, random_generators(1))
        prompt = policy.encode(row).prompt_ids[0] + ([] if first_is_open else [7])
        first = model(input_ids=torch.tensor([prompt])).logits[0, -1, letters].log_softmax(-1)
        best, scores = policy.best(model, policy.encode(row))
    torch.testing.assert_close(sample.behavior_logps, sample.logps, atol=1e-4, rtol=0)
    assert best[0, 0] == first.argmax()
    assert scores[0, 0].item() == pytest.approx(first.max().item(), abs=1e-4)


def test_a_row_without_a_choice_beside_one_with():
    """[1] alone has probability 1 and costs no logits, in front of a row that has four candidates."""
    tokenizer = tiny_tokenizer()
    policy, model = AutoregressivePolicy(tokenizer, 1), tiny_model("llama", tokenizer)
    rows = tiny_questions(1, 4)
    with torch.no_grad():
        sample = policy.sample(model, policy.encode(rows), 3, random_generators(2))
        alone = policy.sample(model, policy.encode(rows[1:]), 3, random_generators(2)[1:])
    assert sample.selections[0].tolist() == [[0]] * 3
    assert sample.logps[0].tolist() == sample.behavior_logps[0].tolist() == [0.0] * 3
    assert sample.entropy[0] == 0
    torch.testing.assert_close(sample.logps[1], alone.logps[0], atol=1e-5, rtol=0)
