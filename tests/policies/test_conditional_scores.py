"""Choices by scores that see the passages chosen before them."""

import math

import pytest
import torch

from dro_trl.lm import encoding, prompts
from dro_trl.policies.base import StatedReading
from dro_trl.policies.conditional_scores import ConditionalScoresPolicy
from dro_trl.policies.plackett_luce import PlackettLucePolicy
from tests.helpers.tiny_models import (
    MODEL_TYPES,
    all_selections,
    gradients,
    largest_difference,
    random_generators,
    record_forwards,
    tiny_model,
    tiny_questions,
    tiny_tokenizer,
)

KINDS = ["pointwise", "query_likelihood"]


def plain_score(model, tokenizer, row, chosen, item, kind, link_weight=None):
    """The score of a passage behind chosen ones, from a prompt of this one alone that is put together here."""
    if link_weight:
        behind, alone = (plain_beginning(model, tokenizer, row, before, item) for before in (chosen, []))
        return plain_score(model, tokenizer, row, chosen, item, kind) + link_weight * (behind - alone)
    line = [f"Passage: {prompts.passage_text(passage)}\n" for passage in row["candidates"]]
    if kind == "pointwise":
        parts = [f"Which passages help to answer the question?\nQuestion: {row['question']}\n"]
        for i in chosen:
            parts += [f"{line[i]}Useful:", " yes\n"]
        ids = pieces(tokenizer, [*parts, f"{line[item]}Useful:"])
        logits = model(torch.tensor([ids])).logits[0, -1]
        yes, no = (encoding.continuation_ids(tokenizer, "Useful:", f" {word}")[0] for word in ("yes", "no"))
        return logits[yes] - logits[no]
    parts = ["Passage:", *(f"{line[i].removeprefix('Passage:')}Passage:" for i in chosen)]
    ids = pieces(tokenizer, [*parts, f"{line[item].removeprefix('Passage:')}Question:"])
    asked = encoding.question_ids(tokenizer, row["question"])
    logps = model(torch.tensor([ids + asked])).logits[0, len(ids) - 1 : -1].log_softmax(-1)
    return logps[torch.arange(len(asked)), asked].sum()


def plain_beginning(model, tokenizer, row, chosen, item):
    """How likely a passage's first three tokens are behind chosen ones."""
    parts = [f"Which passages help to answer the question?\nQuestion: {row['question']}\n"]
    for i in chosen:
        parts += [f"Passage: {prompts.passage_text(row['candidates'][i])}\nUseful:", " yes\n"]
    before = pieces(tokenizer, [*parts, "Passage:"])
    line = encoding.encode(tokenizer, f"Passage: {prompts.passage_text(row['candidates'][item])}\nUseful:")
    label = encoding.encode(tokenizer, "Passage:")
    assert line[: len(label)] == label
    ids = line[len(label) : len(label) + 3]
    logps = model(torch.tensor([before + ids])).logits[0, len(before) - 1 : -1].log_softmax(-1)
    return logps[torch.arange(3), ids].sum()


def pieces(tokenizer, parts):
    """The tokens of the parts of a text, the first of them as the tokenizer begins a text."""
    encoded = encoding.encode_all(tokenizer, [encoding.render(tokenizer, parts[0]), *parts[1:]])
    return [token for ids in encoded for token in ids]


@pytest.mark.parametrize("model_type", MODEL_TYPES)
@pytest.mark.parametrize(("kind", "link_weight"), [*((kind, None) for kind in KINDS), ("pointwise", 0.5)])
def test_each_choice_is_a_softmax_of_scores_read_behind_what_was_chosen(kind, link_weight, model_type):
    """log p(2, 0, 1) of four candidates, from six plain passes: none is left out of a choice but what was taken."""
    tokenizer, (row,) = tiny_tokenizer(), tiny_questions(4)
    model = tiny_model(model_type, tokenizer)
    half = None if link_weight is None else link_weight / 2
    policy = ConditionalScoresPolicy(tokenizer, 3, kind, score_temperature=2.0, link_weight=half)
    with torch.no_grad():
        found = policy.logps(model, policy.encode([row]), torch.tensor([[[2, 0, 1]]])).logps[0, 0]
        expected = torch.zeros(())
        for chosen, item in (([], 2), ([2], 0), ([2, 0], 1)):
            left = [i for i in range(4) if i not in chosen]
            scores = torch.stack([plain_score(model, tokenizer, row, chosen, i, kind, link_weight) for i in left]) / 2
            expected = expected + scores.log_softmax(0)[left.index(item)]
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_choice_is_that_of_scores_without_sight(kind):
    tokenizer, rows = tiny_tokenizer(), tiny_questions(4, 6)
    model, selections = tiny_model("gemma3", tokenizer), torch.arange(4).expand(2, 4)[..., None]
    alone, seeing = (
        made(tokenizer, 1, kind, 0.5, **more)
        for made, more in ((PlackettLucePolicy, {}), (ConditionalScoresPolicy, {"link_weight": None}))
    )
    with torch.no_grad():
        for policy in (alone, seeing):
            assert policy.encode(rows).longest
        first, second = (p.logps(model, p.encode(rows), selections) for p in (alone, seeing))
    torch.testing.assert_close(first.logps, second.logps)
    torch.testing.assert_close(first.entropy, second.entropy)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shortlist_size", [None, 2])
def test_a_shared_pass_has_the_gradient_of_one_a_selection(kind, shortlist_size):
    tokenizer, rows = tiny_tokenizer(), tiny_questions(5)
    model = tiny_model("llama", tokenizer)
    link_weight = 0.5 if kind == "pointwise" else None
    policy = ConditionalScoresPolicy(
        tokenizer, 2, kind, 0.3, 2.0, link_weight=link_weight, shortlist_size=shortlist_size
    )
    sample = policy.sample(model, policy.encode(rows), 6, random_generators(1))
    weights = torch.arange(1.0, 7.0)
    each = [policy.logps(model, policy.encode(rows), z[None, None]).logps[0, 0] for z in sample.selections[0]]
    together = gradients(model, (weights * sample.logps[0]).sum())
    assert largest_difference(together, gradients(model, (weights * torch.stack(each)).sum())) < 1e-3


def test_distinct_beginnings_are_read_once_in_one_pass_a_choice():
    """Eight selections of two of four passages begin in at most four ways: 4 passages are read, then 3 for each."""
    tokenizer, rows = tiny_tokenizer(), tiny_questions(4)
    model = tiny_model("llama", tokenizer, seed=4)
    policy = ConditionalScoresPolicy(tokenizer, 2, score_temperature=4.0, link_weight=None)
    inputs = policy.encode(rows)
    shapes = record_forwards(model)
    sample = policy.sample(model, inputs, 8, random_generators(1))
    beginnings = len(set(sample.selections[0, :, 0].tolist()))
    assert 1 < beginnings <= 4
    assert [logits[-2] for _, logits in shapes] == [4, 3 * beginnings]
    batch = policy.packed(inputs, sample.selections)
    assert int(batch.target_mask.sum()) == 4 + 3 * beginnings


def test_what_is_beyond_the_shortlist_stays_with_its_first_score():
    """Of five, the two best of those that are left are read again; all twenty pairs have probabilities, sum 1."""
    tokenizer, (row,) = tiny_tokenizer(), tiny_questions(5)
    model = tiny_model("llama", tokenizer, seed=4)
    policy = ConditionalScoresPolicy(tokenizer, 2, link_weight=None, shortlist_size=2)
    with torch.no_grad():
        first = policy.logps(model, policy.encode([row]), torch.arange(5)[None, :, None]).logps[0]
        taken = int(first.argmax())
        others = [i for i in first.argsort(descending=True).tolist() if i != taken]
        pairs = torch.tensor([[taken, i] for i in others])[None]
        second = policy.logps(model, policy.encode([row]), pairs).logps[0] - first[taken]
        read = [plain_score(model, tokenizer, row, [taken], i, "pointwise") for i in others[:2]]
        kept = [plain_score(model, tokenizer, row, [], i, "pointwise") for i in others[2:]]
        every = policy.logps(model, policy.encode([row]), all_selections(5, 2)[None]).logps[0]
    torch.testing.assert_close(second, torch.stack([*read, *kept]).log_softmax(0), atol=2e-4, rtol=1e-4)
    assert every.exp().sum().item() == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_draws_without_replacement(temperature):
    """All twelve pairs of four are drawn once, so that the weighted sums over them are the exact ones."""
    tokenizer, rows = tiny_tokenizer(), tiny_questions(4, 4)
    model = tiny_model("llama", tokenizer, seed=4)
    policy = ConditionalScoresPolicy(tokenizer, 2, proposal="without_replacement")
    shapes = record_forwards(model)
    sample = policy.sample(model, policy.encode(rows), 12, random_generators(2), temperature)
    assert len(shapes) == 2, "log-probabilities with gradient are read where the selections are drawn"
    assert sample.logps.requires_grad
    assert all(len({tuple(z) for z in row}) == 12 for row in sample.selections.tolist())
    with torch.no_grad():
        again = policy.logps(model, policy.encode(rows), sample.selections)
    torch.testing.assert_close(sample.logps.detach(), again.logps)
    ratios = (again.logps - sample.behavior_logps).exp().mean(-1)
    torch.testing.assert_close(ratios, torch.ones(2), atol=1e-4, rtol=0)


def test_best_is_greedy():
    tokenizer, rows = tiny_tokenizer(), tiny_questions(3, 6)
    model = tiny_model("llama", tokenizer, seed=4)
    policy = ConditionalScoresPolicy(tokenizer, 2, link_weight=0.5)
    selections, scores = policy.best(model, policy.encode(rows))
    for b, row in enumerate(rows):
        taken = []
        for k in range(2):
            left = [i for i in range(len(row["candidates"])) if i not in taken]
            with torch.no_grad():
                found = torch.stack([plain_score(model, tokenizer, row, taken, i, "pointwise", 0.5) for i in left])
            assert scores[b, k].item() == pytest.approx(found.log_softmax(0).max().item(), abs=1e-3)
            taken.append(left[int(found.argmax())])
        assert selections[b].tolist() == taken


@pytest.mark.parametrize("num_selected", [1, 3])
def test_longest_is_what_may_be_read(num_selected):
    tokenizer, rows = tiny_tokenizer(), tiny_questions(4, 6)
    policy = ConditionalScoresPolicy(tokenizer, num_selected, "query_likelihood", link_weight=None)
    inputs = policy.encode(rows)
    read = [
        int(
            policy.packed(
                policy.encode([row]), all_selections(len(row["candidates"]), num_selected)[None]
            ).position_ids.max()
        )
        + 1
        for row in rows
    ]
    assert max(read) <= inputs.longest <= max(read) + 12  # The longest chosen passage may be the longest candidate.


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"item_score": "identifier"}, "item_score='identifier' cannot be read behind chosen passages"),
        ({"item_score": "query_likelihood", "link_weight": 1.0}, "link_weight=1.0 and item_score='query_likelihood'"),
        ({"link_tokens": 0}, "link_tokens=0 must be at least 1"),
        ({"shortlist_size": 0}, "shortlist_size=0 must be at least 1"),
        ({"proposal": "every_passage"}, "proposal='every_passage' is unknown"),
    ],
)
def test_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        ConditionalScoresPolicy(tiny_tokenizer(), 2, **kwargs)


@pytest.mark.parametrize("link_weight", [None, 1.0])
def test_stated_reading_is_that_of_the_tokens(link_weight):
    """As many tokens as are packed for a question of those lengths: eight begin in as many ways as they can."""
    tokenizer, rows = tiny_tokenizer(), tiny_questions(8)
    policy = ConditionalScoresPolicy(tokenizer, 2, link_weight=link_weight)
    inputs = policy.encode(rows)
    selections = torch.tensor([[[i, (i + 1) % 8] for i in range(8)]])
    (row,) = inputs.rows
    passage = math.ceil(sum(map(len, row.continuations)) / 8)
    stated = StatedReading(len(row.shared), passage, 0, 8, 2, 8)
    read = ConditionalScoresPolicy.stated_reading(stated, link_weight=link_weight)
    batch = policy.packed(inputs, selections)
    packed = int((batch.segments >= 0).sum())
    assert read.tokens == pytest.approx(packed, rel=0.1)
    assert read.kept == int(batch.logits_to_keep.sum()) == (8 + 8 * 7 if link_weight is None else 9 + 3 * (8 + 8 * 7))
