"""The weights of what an item's score is made of: what they weigh, and that training learns and keeps them."""

import json

import pytest
import torch
from datasets import Dataset

from dro_trl import PlackettLucePolicy, RAGPipeline
from dro_trl.lm import encoding, prompts
from dro_trl.losses.dro import control_variate, dro_loss, importance_weights, log_importance
from dro_trl.models.saving import load_models
from dro_trl.policies.plackett_luce import plackett_luce_logps
from tests.helpers.tiny_models import (
    MODEL_TYPES,
    gradients,
    largest_difference,
    tiny_model,
    tiny_questions,
    tiny_tokenizer,
)
from tests.helpers.training import LORA, logged, make_trainer, save_start

LEARNT = {"item_score": "query_likelihood", "answer_confidence": 0.5, "score_temperature": 4.0, "learn_weights": True}


def policy_of(tokenizer, **kwargs):
    return PlackettLucePolicy(tokenizer, 2, "query_likelihood", **kwargs)


@pytest.mark.parametrize("kind", MODEL_TYPES)
@pytest.mark.parametrize("chat", [False, True])
def test_confidence_is_minus_the_entropy_of_the_answers_first_token(kind, chat):
    """Read in the pass that reads the question, for rows of 5 and 3 candidates, as in passes of one prompt each."""
    tokenizer = tiny_tokenizer(chat=chat)
    model, rows = tiny_model(kind, tokenizer), tiny_questions(5, 3)
    plain, confident = policy_of(tokenizer), policy_of(tokenizer, answer_confidence=2.0)
    found = confident.item_scores(model, confident.encode(rows)) - plain.item_scores(model, plain.encode(rows))
    expected = torch.full((2, 5), float("nan"))
    for i, row in enumerate(rows):
        for j, passage in enumerate(row["candidates"]):
            text = encoding.render(tokenizer, prompts.question_prompt(passage))
            ids = [
                *encoding.encode(tokenizer, text),
                *encoding.question_ids(tokenizer, row["question"]),
                *encoding.encode(tokenizer, "\nAnswer:"),
            ]
            logits = model(input_ids=torch.tensor([ids])).logits[0, -1]
            expected[i, j] = -torch.distributions.Categorical(logits=logits).entropy()
    torch.testing.assert_close(found, 2.0 * expected, atol=1e-4, rtol=0, equal_nan=True)
    gained = gradients(model, found.nan_to_num().square().sum())
    assert largest_difference(gained, gradients(model, (2 * expected).nan_to_num().square().sum())) <= 1e-4


def test_the_gradient_of_the_weights_is_the_exact_one():
    """All 12 selections of 2 of 4: the gradient of log sum_z p(z) r(z) in the three weights, against differences."""
    tokenizer = tiny_tokenizer()
    model, rows = tiny_model("llama", tokenizer), tiny_questions(4)
    policy = policy_of(
        tokenizer, score_temperature=8.0, retriever_prior=0.5, answer_confidence=1.0, learn_weights=True
    )
    weight, inputs = policy.score_weights.weight, policy.encode(rows)
    selections = torch.tensor([[[i, j] for i in range(4) for j in range(4) if i != j]])
    rewards = torch.randn(1, 12, generator=torch.Generator().manual_seed(0)) * 3
    logps, _ = plackett_luce_logps(policy.item_scores(model, inputs), selections)
    assert logps.exp().sum().item() == pytest.approx(1.0, abs=1e-5)
    log_ratios = logps.detach() + torch.log(torch.tensor(12.0))  # Each is taken once: q(z) = 1/12.
    loss = dro_loss(logps, importance_weights(log_importance(log_ratios, rewards)), control_variate(log_ratios))
    (found,) = torch.autograd.grad(-loss, weight)

    def bound() -> float:
        with torch.no_grad():
            scores = policy.item_scores(model, inputs)
            return float((plackett_luce_logps(scores.double(), selections)[0] + rewards).logsumexp(-1))

    for index in range(3):
        values = []
        for step in (1e-2, -1e-2):
            with torch.no_grad():
                weight[index] += step
                values.append(bound())
                weight[index] -= step
        assert float(found[index]) == pytest.approx((values[0] - values[1]) / 2e-2, rel=2e-2, abs=1e-3)
    assert found.abs().min() > 1e-3


@pytest.mark.parametrize("peft_config", [None, LORA], ids=["full", "lora"])
def test_weights_are_learnt_logged_saved_and_loaded(tmp_path, peft_config):
    start = save_start(tmp_path / "start")
    options = {"model": start, "peft_config": peft_config, "policy_kwargs": LEARNT, "policy_learning_rate": 0.05}
    trainer = make_trainer(tmp_path / "pair", **options, max_steps=3)
    trainer.train()
    trainer.save_model()
    weight = trainer.model.score_weights.weight.detach().clone()
    at_first = torch.tensor([0.25, 0.0, 0.5])
    assert ((weight - at_first).abs() > 0.02).all()
    for name, value in zip(("selector", "retriever", "confidence"), at_first.tolist(), strict=True):
        seen = logged(trainer, f"score_weight/{name}")
        assert seen[0] == pytest.approx(value)
        assert len(set(seen)) == 3
    learnt = json.loads((tmp_path / "pair/dro_config.json").read_text())["learnt_policy_kwargs"]
    assert learnt == pytest.approx(
        {
            "score_temperature": 1 / float(weight[0]),
            "retriever_prior": float(weight[1]),
            "answer_confidence": float(weight[2]),
        }
    )
    assert "learnt_policy_kwargs" in (tmp_path / "pair/README.md").read_text()
    loaded = RAGPipeline.from_pretrained(tmp_path / "pair")
    assert torch.equal(loaded.policy.score_weights.weight, weight)
    assert torch.equal(RAGPipeline.from_start(tmp_path / "pair").policy.score_weights.weight, at_first)

    fresh = make_trainer(tmp_path / "fresh", **options)
    load_models(fresh.model, tmp_path / "pair")
    assert torch.equal(fresh.model.score_weights.weight, weight)


def test_the_rate_of_the_weights_is_their_own(tmp_path):
    """The model stays as it is at a learning rate of 0, and the weights do not decay."""
    trainer = make_trainer(
        tmp_path, policy_kwargs=LEARNT, learning_rate=0.0, policy_learning_rate=0.1, weight_decay=0.5
    )
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.train()
    moved = {name for name, value in trainer.model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"score_weights.weight"}
    groups = [group for group in trainer.optimizer.param_groups if group["initial_lr"] == 0.1]
    assert [[p.shape for p in group["params"]] for group in groups] == [[torch.Size([3])]]
    assert groups[0]["weight_decay"] == 0.0


def test_weights_that_are_not_learnt_are_no_part_of_the_pair(tmp_path):
    trainer = make_trainer(tmp_path, policy_kwargs={"retriever_prior": 0.5})
    assert trainer.model.score_weights is None
    assert not any("score_weights" in name for name in trainer.model.state_dict())


def test_learning_finds_what_the_rewards_follow(tmp_path):
    """Rewards that follow the retriever's scores alone: its weight grows, and the order becomes the retriever's."""

    def follows_the_retriever(selections, candidates, **kwargs):
        pairs = zip(selections, candidates, strict=True)
        return [5.0 * (passages[z[0]]["score"] == max(p["score"] for p in passages)) for z, passages in pairs]

    rows = tiny_questions(5, 5, 5, 5)
    for row in rows:
        row["candidates"].reverse()
    trainer = make_trainer(
        tmp_path,
        train_dataset=Dataset.from_list(rows),
        reward_funcs=follows_the_retriever,
        policy_kwargs={**LEARNT, "proposal": "every_passage"},
        num_selected=1,
        num_selections=5,
        train_generator=False,
        learning_rate=0.0,
        policy_learning_rate=0.3,
        max_steps=20,
    )
    trainer.train()
    policy = trainer.model.policy
    best, _ = policy.best(trainer.model.selector, policy.encode(rows))
    assert best[:, 0].tolist() == [4, 4, 4, 4]
    assert float(policy.score_weights.weight[1]) > 2
    assert logged(trainer, "iw_bound")[-1] > logged(trainer, "iw_bound")[0] + 0.5


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"answer_confidence": 1.0}, "answer_confidence=1.0 and item_score='pointwise': only 'query_likelihood'"),
        ({"score_temperature": 0}, "score_temperature=0 divides the scores by nothing"),
    ],
)
def test_weights_of_nothing_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        PlackettLucePolicy(tiny_tokenizer(), **kwargs)


def test_weights_are_learnt_with_the_selector(tmp_path):
    with pytest.raises(ValueError, match="learn_weights=True and train_selector=False.*learning_rate=0"):
        make_trainer(tmp_path, policy_kwargs=LEARNT, train_selector=False)
