"""Scoring in several passes: how rows are divided, what is kept for the backward pass, and memory that runs out."""

import gc
import logging

import pytest
import torch

from dro_trl.lm import answer_passes
from dro_trl.lm.answer_passes import TokenBudget, answer_rows, divide
from dro_trl.lm.attention import use_blocks
from dro_trl.lm.older_versions import checkpoint_activations
from tests.helpers.tiny_models import (
    MODEL_TYPES,
    gradients,
    largest_difference,
    record_forwards,
    tiny_model,
    tiny_tokenizer,
)
from tests.lm.test_packing import naive_logps

CPU = torch.device("cpu")


def random_rows(*lengths: int) -> tuple[list[list[int]], list[list[list[int]]]]:
    """Prompts of these lengths, each with one continuation of four tokens."""
    generator = torch.Generator().manual_seed(0)
    tokens = [torch.randint(3, 350, (length + 4,), generator=generator).tolist() for length in lengths]
    return [row[:-4] for row in tokens], [[row[-4:]] for row in tokens]


@pytest.fixture(autouse=True)
def no_hooks_left():
    """Under torch 2.9, hooks of a pass that raised hold on for as long as its error is known."""
    yield
    gc.collect()


def run_out_of_memory(model, most: int) -> None:
    """Let every forward pass over more than so many tokens ask for more memory than there is."""

    def ask(module, args, kwargs):
        if kwargs["input_ids"].numel() > most:
            torch.empty(2**50)

    model.register_forward_pre_hook(ask, with_kwargs=True)


@pytest.mark.parametrize(
    ("budget", "padded", "expected"),
    [
        (None, True, [[1, 4], [2, 3, 0]]),  # A row of 4 beside one of 9 would be padding for the most part.
        (17, True, [[1], [4], [2, 3, 0]]),
        (10, True, [[1], [4], [2, 3], [0]]),  # 12 tokens of 2, 3 and 0 would be too many.
        (1, True, [[1], [4], [2], [3], [0]]),
        (None, False, [[1, 4, 2, 3, 0]]),
        (17, False, [[1, 4], [2, 3, 0]]),  # 9 + 8, then 4 + 4 + 3.
        (10, False, [[1], [4], [2, 3], [0]]),
    ],
)
def test_division_worked_by_hand(budget, padded, expected):
    """Rows of 3, 9, 4, 4 and 8 tokens, their answer's one included."""
    rows = answer_rows([[number] * length for number, length in enumerate((2, 8, 3, 3, 7))], [[[5]]] * 5)
    assert [[row.answers[0][0] for row in part] for part in divide(rows, budget, padded)] == expected


def test_a_long_row_does_not_take_many_short_ones_with_it():
    """Side by side in attention, 21, 3, 3 and 3 tokens would be 84 for 30; 21 and 3 are 42 for 24."""
    rows = answer_rows([[number] * length for number, length in enumerate((20, 2, 2, 2))], [[[5]]] * 4)
    assert [[row.length for row in part] for part in divide(rows, None, False)] == [[21, 3], [3, 3]]


def test_rows_with_a_mask_and_without_are_apart():
    """Two prompts in one row of 15 tokens, then two rows of 12 and 11 that need no mask, where rows are padded."""
    prompts = [[*range(10), 11], [*range(10), 12], [*range(20, 31)], [*range(30, 40)]]
    rows = answer_rows(prompts, [[[5]], [[5, 5]], [[5]], [[5]]], token_cost=1000)
    assert [[row.length for row in part] for part in divide(rows, None, True)] == [[15], [12, 11]]
    assert [[row.length for row in part] for part in divide(rows, None, False)] == [[15, 12, 11]]


@pytest.mark.parametrize("budget", [None, 150])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("kind", MODEL_TYPES)
def test_shared_beginnings_change_nothing(kind, checkpointing, budget, monkeypatch):
    """Values and gradients of prompts with 40 or 60 tokens in common, behind a window of 16, against plain passes."""
    monkeypatch.setattr(answer_passes, "TOKEN_COST", 100)
    model = tiny_model(kind, tiny_tokenizer())
    (*prompts, other, more), rests = random_rows(70, 75, 72, 80, 30, 20)
    prompts[1][:60], prompts[2][:40] = prompts[0][:60], prompts[0][:40]
    prompts += [other, more]
    naive = torch.stack([naive_logps(model, prompt, rest[0]) for prompt, rest in zip(prompts, rests, strict=True)])
    coefficients = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    wanted = gradients(model, (coefficients * naive).sum())
    if checkpointing:
        checkpoint_activations(model.train(), {"use_reentrant": False})
    forwards = record_forwards(model)
    found, mask = TokenBudget(budget).answer_logps(model, prompts, rests, CPU)
    assert mask.all()
    read = sum(rows * length for (rows, length), _ in forwards)
    first = 40 + 34 + 39 + 36
    without_padding = use_blocks(model, 84) and not budget
    assert forwards[0][0] == (1, first + 84 + 34 + 24 if without_padding else first)
    assert read < sum(len(prompt) + 4 for prompt in prompts)
    torch.testing.assert_close(found[:, 0], naive, atol=1e-4, rtol=0)
    assert largest_difference(wanted, gradients(model, (coefficients * found[:, 0]).sum())) <= 1e-4


def test_a_model_without_block_masks_reads_every_prompt(monkeypatch):
    """Its attention takes none, so that every prompt has a row of its own, as it had with one answer before."""
    monkeypatch.setattr(answer_passes, "TOKEN_COST", 100)
    model, (prompts, rests) = tiny_model("llama", tiny_tokenizer()), random_rows(40, 40)
    prompts[1][:30] = prompts[0][:30]
    shared, _ = TokenBudget().answer_logps(model, prompts, rests, CPU)
    model.model.config.layer_types = ["full_attention", "chunked_attention"]
    forwards = record_forwards(model)
    apart, _ = TokenBudget().answer_logps(model, prompts, rests, CPU)
    assert [shape for shape, _ in forwards] == [(2, 44)]
    torch.testing.assert_close(shared, apart, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gemma3"])
def test_division_changes_nothing_beside_activation_checkpointing(kind):
    """Values in the old order, and gradients of layers that are made again in a pass that is made again."""
    model, rows = tiny_model(kind, tiny_tokenizer()).train(), random_rows(40, 20, 23, 30)
    coefficients = torch.randn(4, 1, 4, generator=torch.Generator().manual_seed(1))
    plain, mask = TokenBudget().answer_logps(model, *rows, CPU)
    wanted = gradients(model, (coefficients * plain).sum())
    checkpoint_activations(model, {"use_reentrant": False})
    forwards = record_forwards(model)
    divided, _ = TokenBudget(60).answer_logps(model, *rows, CPU)
    assert len(forwards) == 3
    assert mask.all()
    torch.testing.assert_close(divided, plain, atol=1e-5, rtol=0)
    assert largest_difference(wanted, gradients(model, (coefficients * divided).sum())) <= 1e-5
    assert len(forwards) == 3 + 2, "all but the last are made again"


def test_activations_of_one_pass_are_kept():
    """Eight equal rows, two in a pass: a quarter of what one pass keeps for its backward pass."""
    model, rows = tiny_model("qwen2", tiny_tokenizer()).train(), random_rows(*[40] * 8)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int | None, int] = {}
    for budget in (None, 2 * 44):
        found: dict[int, torch.Tensor] = {}

        def keep(saved: torch.Tensor, found: dict[int, torch.Tensor] = found) -> torch.Tensor:
            if saved.untyped_storage().data_ptr() not in weights:
                found[saved.untyped_storage().data_ptr()] = saved
            return saved

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda saved: saved):
            logps, _ = TokenBudget(budget).answer_logps(model, *rows, CPU)
        kept[budget] = sum(saved.untyped_storage().nbytes() for saved in found.values())
    assert kept[2 * 44] == pytest.approx(kept[None] / 4, rel=0.1)


@pytest.mark.parametrize("gradient", [False, True])
def test_without_memory_the_budget_is_halved(gradient, caplog):
    """Passes of 168 and of 84 tokens are too much, one of 44 is not: said once, and begun with the next time."""
    model, rows = tiny_model("llama", tiny_tokenizer()), random_rows(40, 40, 36, 36)
    expected, _ = TokenBudget().answer_logps(model, *rows, CPU)
    run_out_of_memory(model, 50)
    forwards = record_forwards(model)
    budget = TokenBudget()
    with torch.set_grad_enabled(gradient), caplog.at_level(logging.WARNING):
        for _ in range(2):
            found, _ = budget.answer_logps(model, *rows, CPU)
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert budget.tokens == 42
    once = [(1, 44), (1, 44), (1, 40), (1, 40)]
    assert [shape for shape, _ in forwards] == [(1, 44), *once, *once], "of passes of 84 tokens the first had but 44"
    (record,) = caplog.records
    assert "set scoring_token_budget=42 " in record.message


@pytest.mark.parametrize("num_answers", [1, 3])
def test_a_row_that_does_not_fit_is_an_error(num_answers):
    """Two rows of one prompt each, which no budget divides further."""
    model, (prompts, rests) = tiny_model("llama", tiny_tokenizer()), random_rows(40, 40)
    run_out_of_memory(model, 40)
    with pytest.raises(RuntimeError, match="can't allocate memory") as error:
        TokenBudget().answer_logps(model, prompts, [row * num_answers for row in rests], CPU)
    read = 40 + 4 * num_answers
    assert error.value.__notes__ == [f"{read} tokens were read in one pass; set scoring_token_budget to fewer"]


def test_other_errors_are_not_caught():
    model, (prompts, rests) = tiny_model("llama", tiny_tokenizer()), random_rows(40, 10)
    forwards = record_forwards(model)
    with pytest.raises((RuntimeError, IndexError), match="index out of range"):
        TokenBudget().answer_logps(model, [[10**6, *prompts[0]], prompts[1]], rests, CPU)
    assert not forwards


def test_the_rests_of_a_row_are_not_taken_for_its_length():
    """Eight prompts that begin alike are a row of 30 + 8 x 11; in attention, 10 heads of up to 41 tokens and 88 more.

    As ten rows of 118 it would be more than twice the 487 tokens that there are, and two passes.
    """
    prompts = [[*range(30), *range(100 * p, 100 * p + 10)] for p in range(1, 9)]
    rows = answer_rows([*prompts, *([number] * 40 for number in range(9))], [[[5]]] * 17, token_cost=1000)
    assert [[row.length for row in part] for part in divide(rows, None, False)] == [[118, *[41] * 9]]
