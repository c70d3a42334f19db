"""Item scores, where they are read, and the Plackett-Luce distribution over them."""

import math

import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from dro_trl.lm import encoding, prompts
from dro_trl.losses.dro import control_variate, dro_loss, importance_weights, log_importance
from dro_trl.policies.plackett_luce import PlackettLucePolicy, every_item, gumbel_top_k, plackett_luce_logps
from dro_trl.trainer.monitoring import importance_weighted_bound
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


def merging_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer that, as those of Qwen and Llama 3, joins punctuation and the new line after it: ":\\n"."""
    tokenizer = Tokenizer(models.BPE())
    words = Regex(r" ?[^\s\p{L}\p{N}]+[\r\n]*| ?\p{L}+|\p{N}|\s+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(words, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(["Useful:\nUseful: yes\nUseful: no\n"] * 50, trainer)
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    assert made.tokenize("a:\n")[-1] == ":Ċ"
    return made


TOKENIZERS = {
    "split digits": tiny_tokenizer,
    "whole numbers": lambda: tiny_tokenizer(split_digits=False),
    "chat": lambda: tiny_tokenizer(chat=True),
    "joins punctuation and new lines": merging_tokenizer,
}


def awkward_row():
    """Titles and texts of several bytes a character, and the marker itself in the question, a title and a text."""
    (row,) = tiny_questions(5)
    row["question"] = "Is Useful: a marker?\n日本?"
    row["candidates"][0] |= {"title": "Ünïcødé 🎈", "text": "naïve — 東京 🎈🎈"}
    row["candidates"][1] |= {"title": "Useful:", "text": "Useful:"}
    row["candidates"][2] |= {"title": "", "text": "ends in a marker\nUseful: yes"}
    row["candidates"][4] |= {"text": "🎈"}
    return row


@pytest.mark.parametrize("name", TOKENIZERS)
def test_scores_are_read_right_after_the_marker(name):
    """Everything up to and with the token at the i-th kept position decodes to the prompt's text up to "Useful:"."""
    tokenizer, row = TOKENIZERS[name](), awkward_row()
    text, spans = prompts.scoring_prompt(row["question"], row["candidates"])
    rendered = encoding.render(tokenizer, text)
    before = rendered.index(text)
    inputs = PlackettLucePolicy(tokenizer, 2, "passage_end").encode([row, *tiny_questions(3)])
    positions = inputs.batch.logits_to_keep[0].nonzero().flatten().tolist()
    assert len(positions) == len(spans) == 5
    assert inputs.batch.logits_to_keep.sum(1).tolist() == inputs.item_mask.sum(1).tolist() == [5, 3]
    for position, (_, end) in zip(positions, spans, strict=True):
        decoded = tokenizer.decode(inputs.batch.input_ids[0, : position + 1])
        assert decoded.endswith("\nUseful:")
        assert decoded == rendered[: before + end]


@pytest.mark.parametrize("kind", MODEL_TYPES)
def test_item_scores_equal_plain_passes(kind):
    """s_i = logit(" yes") - logit(" no") after the i-th marker, and the rows beside do not matter."""
    tokenizer = tiny_tokenizer()
    policy, model = PlackettLucePolicy(tokenizer, 2, "passage_end"), tiny_model(kind, tokenizer)
    rows = tiny_questions(3, 6)
    (yes,), (no,) = tokenizer.convert_tokens_to_ids(["Ġyes"]), tokenizer.convert_tokens_to_ids(["Ġno"])
    with torch.no_grad():
        scores = policy.item_scores(model, policy.encode(rows))
        for b, row in enumerate(rows):
            inputs = policy.encode([row])
            logits = model(input_ids=inputs.batch.input_ids).logits[0][inputs.batch.logits_to_keep[0]]
            torch.testing.assert_close(scores[b, : len(logits)], logits[:, yes] - logits[:, no], atol=1e-4, rtol=0)
    assert scores[0, 3:].tolist() == [-math.inf] * 3
    assert scores[1].std() > 0.1


@pytest.mark.parametrize("kind", MODEL_TYPES)
@pytest.mark.parametrize("name", TOKENIZERS)
def test_pointwise_scores_are_those_of_each_passage_alone(kind, name):
    """The score of every passage equals a plain pass over a prompt without the others, in any order of them."""
    tokenizer = TOKENIZERS[name]()
    policy, model = PlackettLucePolicy(tokenizer, 1, "pointwise"), tiny_model(kind, tokenizer)
    rows = [awkward_row(), *tiny_questions(3)]
    yes, no = policy.scores.token_ids.tolist()
    with torch.no_grad():
        scores = policy.item_scores(model, policy.encode(rows))
        for b, row in enumerate(rows):
            for i, passage in enumerate(row["candidates"]):
                text, ((_, end),) = prompts.scoring_prompt(row["question"], [passage])
                rendered = encoding.render(tokenizer, text)
                head = rendered.index(text) + end - len(f"Passage: {prompts.passage_text(passage)}\nUseful:")
                pieces = [rendered[:head], rendered[head : rendered.index(text) + end]]
                ids = [token for piece in pieces for token in encoding.encode(tokenizer, piece)]
                logits = model(input_ids=torch.tensor([ids])).logits[0, -1]
                assert scores[b, i].item() == pytest.approx(float(logits[yes] - logits[no]), abs=1e-4)
        assert scores[1, 3:].tolist() == [-math.inf] * 2
        turned = {**rows[0], "candidates": rows[0]["candidates"][::-1]}
        torch.testing.assert_close(
            policy.item_scores(model, policy.encode([turned]))[0].flip(0), scores[0], atol=1e-4, rtol=0
        )
    assert scores[0].std() > 0.1


@pytest.mark.parametrize("kind", MODEL_TYPES)
@pytest.mark.parametrize("name", TOKENIZERS)
def test_query_likelihood_equals_plain_passes(kind, name):
    """log p(question | passage) / 4 is the sum of the question's token log-probabilities after each passage alone."""
    tokenizer = TOKENIZERS[name]()
    model = tiny_model(kind, tokenizer)
    policy = PlackettLucePolicy(tokenizer, 1, "query_likelihood", score_temperature=4.0)
    rows = [awkward_row(), *tiny_questions(3)]
    with torch.no_grad():
        scores = policy.item_scores(model, policy.encode(rows))
        for b, row in enumerate(rows):
            asked = encoding.question_ids(tokenizer, row["question"])
            spoken = tokenizer.decode(asked)
            assert spoken.strip() == row["question"]
            for i, passage in enumerate(row["candidates"]):
                text = encoding.render(tokenizer, f"Passage: {prompts.passage_text(passage)}\nQuestion:")
                at = text.index("Passage:") + len("Passage:")
                ids = [*encoding.encode(tokenizer, text[:at]), *encoding.encode(tokenizer, text[at:]), *asked]
                logps = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
                before = range(len(ids) - len(asked) - 1, len(ids) - 1)
                expected = sum(float(logps[t, ids[t + 1]]) for t in before) / 4
                assert scores[b, i].item() == pytest.approx(expected, abs=1e-3)
    assert scores[1, 3:].tolist() == [-math.inf] * 2
    assert scores[0].std() > 0.1


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma3"])
@pytest.mark.parametrize("item_score", ["pointwise", "query_likelihood"])
def test_one_pass_over_fifty_passages_has_the_gradient_of_fifty(item_score, kind):
    """The gradient of the log-probability of four selections, from one pass and from a pass for each passage."""
    tokenizer, (row,) = tiny_tokenizer(), tiny_questions(50)
    model = tiny_model(kind, tokenizer)
    policy, alone = (PlackettLucePolicy(tokenizer, k, item_score, score_temperature=2.0) for k in (5, 1))
    selections = torch.rand(1, 4, 50, generator=torch.Generator().manual_seed(0)).argsort(-1)[..., :5]
    together = policy.logps(model, policy.encode([row]), selections).logps
    single = [{**row, "candidates": [passage]} for passage in row["candidates"]]
    scores = torch.cat([alone.item_scores(model, alone.encode([one])) for one in single], dim=1)
    apart, _ = plackett_luce_logps(scores, selections)
    torch.testing.assert_close(together, apart, atol=1e-4, rtol=1e-5)
    assert largest_difference(gradients(model, apart.sum()), gradients(model, together.sum())) < 1e-4


def test_identifier_scores_equal_a_plain_pass():
    tokenizer = tiny_tokenizer(chat=True)
    policy, model = PlackettLucePolicy(tokenizer, 2, "identifier"), tiny_model("llama", tokenizer)
    row = tiny_questions(5)[0]
    inputs = policy.encode([row])
    assert tokenizer.decode(inputs.batch.input_ids[0, :-1]).endswith("<|assistant|>\nThe most useful passage is [")
    assert "[E] " in tokenizer.decode(inputs.batch.input_ids[0])
    with torch.no_grad():
        logits = model(input_ids=inputs.batch.input_ids[:, :-1]).logits[0, -1]
        scores = policy.item_scores(model, policy.encode([row, *tiny_questions(9)]))[0, :5]
    torch.testing.assert_close(scores, logits[tokenizer.convert_tokens_to_ids(list("ABCDE"))], atol=1e-4, rtol=0)


@pytest.mark.parametrize(("item_score", "kept"), [("pointwise", 3 + 6), ("passage_end", 3 + 6), ("identifier", 2)])
def test_one_pass_whatever_the_number_of_selections(item_score, kept):
    """As many tokens for 16 selections as for 2, in one forward, and logits at the scored positions only."""
    tokenizer = tiny_tokenizer()
    policy, model = PlackettLucePolicy(tokenizer, 2, item_score), tiny_model("llama", tokenizer)
    shapes = record_forwards(model)
    for num in (2, 16):
        policy.sample(model, policy.encode(tiny_questions(3, 6)), num, random_generators(2))
    assert len(shapes) == 2
    assert shapes[0] == shapes[1]
    assert shapes[0][1] == (kept, len(tokenizer))


def test_retriever_prior_is_standardised():
    """Scores 10, 9, 8, 7: mean 8.5, deviation sqrt(5)/2; twice the standardised are 6, 2, -2, -6 over sqrt(5)."""
    tokenizer = tiny_tokenizer()
    model, rows = tiny_model("llama", tokenizer), tiny_questions(4, 2)
    with torch.no_grad():
        plain, prior = (
            policy.item_scores(model, policy.encode(rows))
            for policy in (PlackettLucePolicy(tokenizer, 2), PlackettLucePolicy(tokenizer, 2, retriever_prior=2.0))
        )
    expected = torch.tensor([6.0, 2.0, -2.0, -6.0]) / math.sqrt(5)
    torch.testing.assert_close(prior[0] - plain[0], expected, atol=1e-5, rtol=0)
    torch.testing.assert_close((prior - plain)[1, :2], torch.tensor([2.0, -2.0]), atol=1e-5, rtol=0)
    equal = tiny_questions(3)
    for passage in equal[0]["candidates"]:
        passage["score"] = 4.0
    assert PlackettLucePolicy(tokenizer, 2, retriever_prior=2.0).encode(equal).prior.tolist() == [[0.0, 0.0, 0.0]]


def test_log_probability_worked_by_hand():
    """Scores log 1, log 2, log 3: p(2, 0) = 3/6 * 1/3 = 1/6, p(0, 1) = 1/6 * 2/5 = 1/15.

    The entropies along (2, 0): of (1/6, 2/6, 3/6), then of (1/3, 2/3).
    """
    scores = torch.tensor([[1.0, 2.0, 3.0]]).log()
    logps, entropies = plackett_luce_logps(scores, torch.tensor([[[2, 0], [0, 1]]]))
    torch.testing.assert_close(logps.exp(), torch.tensor([[1 / 6, 1 / 15]]))

    def entropy(*p: float) -> float:
        return -sum(x * math.log(x) for x in p)

    expected = entropy(1 / 6, 2 / 6, 3 / 6) + entropy(1 / 3, 2 / 3)
    assert entropies[0, 0].item() == pytest.approx(expected, rel=1e-5)


def test_gradients_with_padded_items():
    """d log p(z) / d s_i = sum over the steps of [i chosen] - p(i | still available), and padding gets none."""
    scores = torch.tensor([[0.0, 0.0, -math.inf], [0.0, 0.0, 0.0]], requires_grad=True)
    logps, entropies = plackett_luce_logps(scores, torch.tensor([[[0, 1]], [[0, 1]]]))
    (gradient,) = torch.autograd.grad(logps.sum() + entropies.sum(), scores)
    # Row 2: (1, 0, 0) - (1/3, 1/3, 1/3), then (0, 1, 0) - (0, 1/2, 1/2); entropies of equal scores are at their peak.
    torch.testing.assert_close(gradient, torch.tensor([[0.5, -0.5, 0.0], [2 / 3, 1 / 6, -5 / 6]]))


def test_gumbel_draws_do_not_depend_on_the_batch():
    """A row of three items draws the same beside a row of three as beside one of six."""
    narrow = torch.tensor([[0.0, 1.0, 0.5], [0.0, 0.0, 0.0]])
    wide = torch.cat([torch.cat([narrow[:1], torch.full((1, 3), -math.inf)], 1), torch.zeros(1, 6)])
    drawn = [gumbel_top_k(scores, 2, 20, random_generators(2))[0].tolist() for scores in (narrow, wide)]
    assert drawn[0] == drawn[1]
    assert len({tuple(z) for z in drawn[0]}) > 2


def test_gumbel_draws_of_certain_items():
    """Scores 1000 apart leave one order; padded items are never drawn, even with K = N."""
    scores = torch.tensor([[0.0, 2000.0, 1000.0, -math.inf]])
    assert gumbel_top_k(scores, 3, 50, random_generators(1)).unique(dim=1).tolist() == [[[1, 2, 0]]]
    flat = torch.tensor([[0.0, 0.0, -math.inf, -math.inf]])
    assert gumbel_top_k(flat, 2, 50, random_generators(1)).max() == 1


def test_best_of_rows_with_padding():
    tokenizer = tiny_tokenizer()
    policy, model = PlackettLucePolicy(tokenizer, 3), tiny_model("llama", tokenizer)
    with torch.no_grad():
        best, scores = policy.best(model, policy.encode(tiny_questions(3, 7)))
    assert sorted(best[0].tolist()) == [0, 1, 2]
    assert scores.isfinite().all()
    assert (scores.diff(dim=-1) <= 0).all()


def test_unknown_item_score():
    with pytest.raises(ValueError, match="item_score='letters' is unknown; use one of 'pointwise', 'passage_end', "):
        PlackettLucePolicy(tiny_tokenizer(), item_score="letters")


def test_too_many_candidates_for_letters():
    policy = PlackettLucePolicy(tiny_tokenizer(), 2, "identifier")
    assert policy.encode(tiny_questions(52)).item_mask.sum() == 52
    with pytest.raises(ValueError, match="53 candidates, but item_score='identifier' has 52 letters"):
        policy.encode(tiny_questions(53))


def test_tokenizer_without_the_needed_tokens():
    tokenizer = Tokenizer(
        models.BPE(vocab={c: i for i, c in enumerate(pre_tokenizers.ByteLevel.alphabet())}, merges=[])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    with pytest.raises(ValueError, match=r"splits ' yes' after 'Useful:' into 4 tokens.*AutoregressivePolicy"):
        PlackettLucePolicy(PreTrainedTokenizerFast(tokenizer_object=tokenizer))


def test_all_probabilities_of_a_long_list():
    """K = 2 of 50: 2,450 ordered pairs, whose probabilities sum to 1 in float32 too."""
    scores = torch.randn(1, 50, generator=torch.Generator().manual_seed(0)) * 3
    logps, _ = plackett_luce_logps(scores, all_selections(50, 2)[None])
    assert logps.exp().sum().item() == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("num_selections", [5, 7])
def test_every_passage_gives_the_exact_gradient(num_selections):
    """Without any draw: the bound is log sum_i p_i l_i, and its gradient that of the loss; rows of 5 and 3 items."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(2, 5, generator=generator, dtype=torch.float64)
    scores[1, 3:] = -torch.inf
    scores.requires_grad_()
    likelihoods = torch.randn(2, 5, generator=generator, dtype=torch.float64)
    bound = (scores.log_softmax(-1) + likelihoods).logsumexp(-1)
    (expected,) = torch.autograd.grad(bound.mean(), scores, retain_graph=True)

    selections, shares = every_item([5, 3], num_selections)
    logps, _ = plackett_luce_logps(scores, selections)
    ratios = logps.detach() - shares
    log_weights = log_importance(ratios, likelihoods.gather(1, selections[..., 0]))
    torch.testing.assert_close(importance_weighted_bound(log_weights), bound.detach())
    loss = dro_loss(logps, importance_weights(log_weights), control_variate(ratios))
    (found,) = torch.autograd.grad(-loss, scores)
    assert expected.abs().max() > 0.05
    torch.testing.assert_close(found, expected)


def test_every_passage_is_taken_in_training_and_k_of_them_afterwards():
    rows, model = tiny_questions(4, 6), tiny_model("llama", tiny_tokenizer())
    policy = PlackettLucePolicy(tiny_tokenizer(), 1, proposal="every_passage")
    sample = policy.sample(model, policy.encode(rows), 6, random_generators(2))
    assert sample.selections[..., 0].tolist() == [[0, 1, 2, 3, 0, 1], [0, 1, 2, 3, 4, 5]]
    shares = sample.behavior_logps.exp()
    torch.testing.assert_close(shares, torch.tensor([[2, 2, 1, 1, 2, 2], [1] * 6]) / 6)
    torch.testing.assert_close(sample.logps[1].exp().sum(), torch.tensor(1.0))
    wider = PlackettLucePolicy(tiny_tokenizer(), 3, proposal="every_passage")
    assert wider.best(model, wider.encode(rows))[0].shape == (2, 3)
    of_one = wider.sample(model, wider.encode(rows), 6, random_generators(2))
    assert torch.equal(of_one.selections, sample.selections)  # Whatever K is selected afterwards.
    assert torch.equal(of_one.logps, sample.logps)


def test_what_every_passage_asks_for():
    policy = PlackettLucePolicy(tiny_tokenizer(), 1, proposal="every_passage")
    model, inputs = tiny_model("llama", tiny_tokenizer()), policy.encode(tiny_questions(4, 6))
    with pytest.raises(ValueError, match="num_selections=5 and a question of 6 candidates: set num_selections to 6"):
        policy.sample(model, inputs, 5, random_generators(2))
    with pytest.raises(ValueError, match="proposal='all' is unknown"):
        PlackettLucePolicy(tiny_tokenizer(), proposal="all")
