"""The generator's likelihoods, and the one forward of both models."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor

from dro_trl.lm import answer_passes as token_budget
from dro_trl.lm import encoding, prompts
from dro_trl.models.answers import AnswerScorer
from dro_trl.models.selector_generator import SelectorGenerator, parameter_groups
from dro_trl.policies.autoregressive import AutoregressivePolicy
from dro_trl.policies.plackett_luce import PlackettLucePolicy
from tests.helpers.tiny_models import (
    gradients,
    largest_difference,
    random_generators,
    record_forwards,
    tiny_model,
    tiny_questions,
    tiny_tokenizer,
)

SELECTIONS = torch.tensor([[[0, 1], [2, 0], [0, 1], [0, 1]], [[1, 0], [0, 1], [4, 2], [1, 0]]])
"""Of each question's four, two and three are distinct; the order counts."""


def naive_answer_logps(model, tokenizer, row, selection: list[int], alias: str) -> Tensor:
    """From the logits at all positions of one plain pass over the whole text."""
    text = prompts.generator_prompt(row["question"], [row["candidates"][i] for i in selection])
    prompt = encoding.encode(tokenizer, encoding.render(tokenizer, text))
    answer = encoding.answer_ids(tokenizer, alias)
    logits = model(input_ids=torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1).gather(-1, torch.tensor(answer)[:, None])[:, 0]


@pytest.mark.parametrize("token_budget", [None, 200, 1])
@pytest.mark.parametrize("all_aliases", [False, True])
@pytest.mark.parametrize(
    ("kind", "split_digits", "chat"),
    [("llama", True, False), ("gemma3", False, False), ("mistral", True, True), ("qwen2", False, True)],
)
def test_answer_scores_equal_plain_passes(kind, split_digits, chat, all_aliases, token_budget):
    """Values and gradients, for aliases of different numbers and lengths, one with a number in it.

    All five prompts in one pass (or in two, one of the rows that several answers share), in two or three passes, or
    each in its own.
    """
    tokenizer = tiny_tokenizer(split_digits, chat)
    model, rows = tiny_model(kind, tokenizer), tiny_questions(3, 5)
    rows[0]["answers"] = ["Ada 12"]
    forwards = record_forwards(model)
    logps, mask = AnswerScorer(tokenizer, all_aliases, token_budget=token_budget).logps(model, rows, SELECTIONS)
    assert len(forwards) in {None: (1, 2), 200: (2, 3), 1: (5,)}[token_budget]
    assert all(rows == 1 or rows * length <= (token_budget or 10**9) for (rows, length), _ in forwards)
    assert logps.shape[:3] == (2, 4, 2 if all_aliases else 1)
    naive = torch.zeros_like(logps)
    for b, row in enumerate(rows):
        for m, selection in enumerate(SELECTIONS[b].tolist()):
            for a, alias in enumerate(row["answers"] if all_aliases else row["answers"][:1]):
                expected = naive_answer_logps(model, tokenizer, row, selection, alias)
                naive[b, m, a, : len(expected)] = expected
                assert mask[b, m, a].sum() == len(expected)
    torch.testing.assert_close(logps, naive, atol=1e-4, rtol=0)
    assert not mask[0, :, 1:].any(), "the first question has one alias"
    coefficients = torch.randn(logps.shape, generator=torch.Generator().manual_seed(1))
    found, wanted = (gradients(model, (coefficients * values).sum()) for values in (logps, naive))
    assert largest_difference(wanted, found) <= 1e-4


@pytest.mark.parametrize(("kind", "chat"), [("llama", False), ("qwen2", True), ("gemma3", False), ("gemma3", True)])
def test_the_same_first_passages_are_read_once(kind, chat, monkeypatch):
    """Three selections begin with passage 0, which is read once for them; the result is that of plain passes."""
    monkeypatch.setattr(token_budget, "TOKEN_COST", 100)  # As if these tiny layers were larger.
    tokenizer = tiny_tokenizer(chat=chat)
    model, (row,) = tiny_model(kind, tokenizer), tiny_questions(5)
    for number, passage in enumerate(row["candidates"]):
        passage["text"] += f" It is number {number}." * 4
    selections = [[0, 1], [0, 2], [3, 1], [0, 4]]
    naive = torch.stack([naive_answer_logps(model, tokenizer, row, z, row["answers"][0]) for z in selections])
    forwards = record_forwards(model)
    logps, _ = AnswerScorer(tokenizer).logps(model, [row], torch.tensor([selections]))
    torch.testing.assert_close(logps[0, :, 0], naive, atol=1e-4, rtol=0)
    assert {rows for (rows, _), _ in forwards} == {1}
    lengths = [len(AnswerScorer(tokenizer).prompt_ids(row, z)) + naive.shape[1] for z in selections]
    assert sum(length for (_, length), _ in forwards) < 0.8 * sum(lengths)
    coefficients = torch.randn(naive.shape, generator=torch.Generator().manual_seed(1))
    found, wanted = (gradients(model, (coefficients * values).sum()) for values in (logps[0, :, 0], naive))
    assert largest_difference(wanted, found) <= 1e-4


def test_identical_selections_are_scored_once():
    """Two and three distinct selections: five answers scored for eight, and logits at their tokens alone."""
    tokenizer = tiny_tokenizer()
    model, rows = tiny_model("llama", tokenizer), tiny_questions(3, 5)
    shapes = record_forwards(model)
    logps, mask = AnswerScorer(tokenizer).logps(model, rows, SELECTIONS)
    lengths = [len(encoding.answer_ids(tokenizer, row["answers"][0])) for row in rows]
    assert {width for _, (_, width) in shapes} == {len(tokenizer)}
    assert sum(kept for _, (kept, _) in shapes) == 2 * lengths[0] + 3 * lengths[1]
    assert logps[0, 0].equal(logps[0, 2])
    assert not logps[0, 0].equal(logps[0, 1])
    assert not logps[1, 0].equal(logps[1, 1]), "the order of the passages counts"


def make_pair(policy_class=PlackettLucePolicy, **kwargs) -> SelectorGenerator:
    tokenizer = tiny_tokenizer()
    return SelectorGenerator(
        kwargs.pop("selector", tiny_model("llama", tokenizer, seed=1)),
        kwargs.pop("generator", tiny_model("qwen3", tokenizer, seed=2)),
        policy_class(tokenizer, 2),
        AnswerScorer(tokenizer),
        **kwargs,
    )


def with_adapter(seed: int = 3):
    """A model with a LoRA adapter that changes what it says."""
    torch.manual_seed(seed)
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    return get_peft_model(tiny_model("llama", tiny_tokenizer(), seed=1), config)


@pytest.mark.parametrize("policy_class", [PlackettLucePolicy, AutoregressivePolicy])
def test_drawing_and_scoring_agree(policy_class):
    """What is drawn has the shapes that are promised, and scores the same when it is given."""
    pair, rows = make_pair(policy_class), tiny_questions(3, 5)
    drawn = pair(rows, num_selections=4, generators=random_generators(2), temperature=0.7, score_answers=False)
    assert drawn.selections.shape == (2, 4, 2)
    assert drawn.answer_logps is drawn.answer_mask is drawn.ref_logps is None
    assert not drawn.behavior_logps.requires_grad
    assert (drawn.behavior_logps - drawn.selector_logps).abs().max() > 0.01
    given = pair(rows, drawn.selections)
    assert given.behavior_logps is None
    assert given.selections is drawn.selections
    torch.testing.assert_close(given.selector_logps, drawn.selector_logps, atol=1e-5, rtol=0)
    torch.testing.assert_close(given.entropy, drawn.entropy, atol=1e-5, rtol=0)
    expected, mask = pair.scorer.logps(pair.generator, rows, drawn.selections)
    torch.testing.assert_close(given.answer_logps, expected)
    assert given.answer_mask.equal(mask)


def test_gradients_reach_both_models():
    pair = make_pair()
    output = pair(tiny_questions(3, 5), SELECTIONS)
    found = gradients(pair, output.selector_logps.sum() + output.answer_logps.sum())
    for name in ("selector", "generator"):
        assert max(float(g.abs().max()) for key, g in found.items() if key.startswith(name)) > 0


@pytest.mark.parametrize(("frozen", "trained"), [("generator", "selector"), ("selector", "generator")])
def test_frozen_models_build_no_graph(frozen, trained):
    pair, rows = make_pair(), tiny_questions(3, 5)
    both = pair(rows, SELECTIONS)
    getattr(pair, frozen).requires_grad_(False)
    output = pair(rows, num_selections=4, generators=random_generators(2))
    graphs = {"selector": output.selector_logps.requires_grad, "generator": output.answer_logps.requires_grad}
    assert graphs == {frozen: False, trained: True}
    again = pair(rows, SELECTIONS)
    torch.testing.assert_close(again.selector_logps, both.selector_logps)
    torch.testing.assert_close(again.answer_logps, both.answer_logps)


def test_no_graph_where_the_caller_wants_none():
    with torch.no_grad():
        output = make_pair()(tiny_questions(3, 5), SELECTIONS)
    assert not output.selector_logps.requires_grad
    assert not output.answer_logps.requires_grad


def test_reference_model():
    """Its log-probabilities, which no gradient reaches, and it is frozen with the pair's making."""
    tokenizer, rows = tiny_tokenizer(), tiny_questions(3, 5)
    other = tiny_model("llama", tokenizer, seed=9)
    pair = make_pair(reference=other)
    output = pair(rows, SELECTIONS, score_reference=True)
    assert not output.ref_logps.requires_grad
    assert not any(parameter.requires_grad for parameter in other.parameters())
    expected = pair.policy.logps(other, pair.policy.encode(rows), SELECTIONS).logps
    torch.testing.assert_close(output.ref_logps, expected)
    assert (output.ref_logps - output.selector_logps).abs().max() > 0.1


@pytest.mark.parametrize("policy_class", [PlackettLucePolicy, AutoregressivePolicy])
def test_reference_without_the_adapter(policy_class):
    """The base model is the reference; switching the adapter off and on leaves values and gradients as they were."""
    rows, selector = tiny_questions(3, 5), with_adapter()
    base = tiny_model("llama", tiny_tokenizer(), seed=1)
    pair = make_pair(policy_class, selector=selector)
    trained = {name for name, parameter in pair.named_parameters() if parameter.requires_grad}
    plain = pair(rows, SELECTIONS)
    output = pair(rows, SELECTIONS, score_reference=True)
    expected = pair.policy.logps(base, pair.policy.encode(rows), SELECTIONS).logps
    torch.testing.assert_close(output.ref_logps, expected, atol=1e-5, rtol=0)
    assert (output.ref_logps - output.selector_logps).abs().max() > 0.1
    torch.testing.assert_close(output.selector_logps, plain.selector_logps)
    assert {name for name, parameter in pair.named_parameters() if parameter.requires_grad} == trained
    weights = torch.tensor([[1.0, -1.0, 0.5, 0.2], [0.3, 1.0, -1.0, 2.0]])
    found, wanted = (gradients(selector, (weights * out.selector_logps).sum()) for out in (output, plain))
    assert largest_difference(wanted, found) <= 1e-6


def test_no_reference_is_an_error():
    with pytest.raises(ValueError, match="kl_coef > 0 needs a reference selector: pass `reference`, or train .* PEFT"):
        make_pair()(tiny_questions(3, 5), SELECTIONS, score_reference=True)


@pytest.mark.parametrize("given", [{}, {"num_selections": 4}, {"generators": random_generators(2)}])
def test_nothing_to_draw_with_is_an_error(given):
    with pytest.raises(ValueError, match="give `selections`, or `num_selections` and `generators`"):
        make_pair()(tiny_questions(3, 5), **given)


@pytest.mark.parametrize("adapter", [False, True])
@pytest.mark.parametrize("policy_class", [PlackettLucePolicy, AutoregressivePolicy])
def test_activation_checkpointing_changes_nothing(policy_class, adapter):
    """Drawn selections, values and gradients, with the arguments that transformers' trainer passes."""
    selector = with_adapter() if adapter else tiny_model("llama", tiny_tokenizer(), seed=1)
    pair, rows = make_pair(policy_class, selector=selector), tiny_questions(3, 5)
    checkpointed = copy.deepcopy(pair)
    checkpointed.activation_checkpointing_enable(activation_checkpointing_kwargs=None, every_n_layers=1, offload=False)
    found = []
    for module in (pair, checkpointed):
        module.train()
        output = module(rows, num_selections=4, generators=random_generators(2))
        (output.selector_logps.sum() + output.answer_logps.sum()).backward()
        found.append((output, {n: p.grad for n, p in module.named_parameters() if p.grad is not None}))
        assert module.selector.training
    (plain, wanted), (other, gradient) = found
    assert plain.selections.tolist() == other.selections.tolist()
    torch.testing.assert_close(other.behavior_logps, plain.behavior_logps, atol=1e-5, rtol=0)
    torch.testing.assert_close(other.selector_logps, plain.selector_logps, atol=1e-5, rtol=0)
    assert wanted.keys() == gradient.keys()
    assert largest_difference(wanted, gradient) <= 1e-4


def test_parameter_groups():
    """Each trained parameter once, at its model's rate, with weight decay where it is named."""
    pair = make_pair(selector=with_adapter())
    decayed = {name for name, _ in pair.named_parameters() if name.endswith("weight") and "norm" not in name}
    groups = parameter_groups(pair, 1e-3, 1e-4, 1e-2, 0.1, decayed)
    names = {id(parameter): name for name, parameter in pair.named_parameters()}
    seen = [names[id(parameter)] for group in groups for parameter in group["params"]]
    assert sorted(seen) == sorted(name for name, parameter in pair.named_parameters() if parameter.requires_grad)
    for group in groups:
        for parameter in group["params"]:
            name = names[id(parameter)]
            assert group["lr"] == (1e-4 if name.startswith("generator") else 1e-3)
            assert group["weight_decay"] == (0.1 if name in decayed else 0.0)
    assert len(groups) == 3, "the adapter has no parameters without decay"
