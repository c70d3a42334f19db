"""The terms beside the reward: KL, entropy, what is drawn, and what must change no number."""

import copy

import pytest
import torch
from datasets import Dataset

from dro_trl.losses import terms
from dro_trl.losses.base import ScoredSelections
from tests.helpers.tiny_models import tiny_model, tiny_questions, tiny_tokenizer
from tests.helpers.training import (
    LORA,
    changed,
    logged,
    make_trainer,
    parts,
    weights_of,
)

AUTOREGRESSIVE = "dro_trl.AutoregressivePolicy"


@pytest.mark.parametrize("peft_config", [None, LORA], ids=["full", "lora"])
def test_kl_is_to_the_selector_at_the_start(tmp_path, peft_config):
    start = tiny_model("llama", tiny_tokenizer())
    trainer = make_trainer(
        tmp_path, model=copy.deepcopy(start), peft_config=peft_config, kl_coef=0.5, max_steps=3, learning_rate=1e-2
    )
    trainer.train()
    kl = logged(trainer, "kl")
    assert abs(kl[0]) < 1e-6
    assert all(abs(value) > 1e-4 for value in kl[1:])
    rows = [trainer.train_dataset[0]]
    batch = {"rows": rows, "draw": 0}
    estimated = trainer.estimate(trainer.model, batch)
    policy = trainer.model.policy
    expected = policy.logps(start, policy.encode(rows), estimated["selections"]).logps
    torch.testing.assert_close(estimated["ref_logps"], expected, atol=1e-5, rtol=1e-5)


def test_a_frozen_selector_needs_no_reference(tmp_path):
    trainer = make_trainer(tmp_path, kl_coef=0.5, train_selector=False, peft_config=LORA)
    assert trainer.model.reference is None
    trainer.train()
    assert logged(trainer, "kl") == []


@pytest.mark.parametrize(("name", "value"), [("loss_type", "grpo"), ("entropy_coef", 0.1), ("kl_coef", 0.1)])
def test_what_needs_draws_is_refused_where_nothing_is_drawn(tmp_path, name, value):
    options = {"num_selected": 1, "num_selections": 6, "policy_kwargs": {"proposal": "every_passage"}}
    trainer = make_trainer(tmp_path, train_dataset=Dataset.from_list(tiny_questions(6, 6)), **options)
    trainer.train()
    assert logged(trainer, "frac_unique_selections") == [1.0, 1.0]  # Six draws would hardly be six passages.
    with pytest.raises(ValueError, match=f"every_passage' and {name}={value!r} do not go together.*set {name}="):
        make_trainer(tmp_path, **options, **{name: value})


@pytest.mark.parametrize("loss_type", ["dro", "grpo", "rloo", "reinforce", "ppo"])
def test_selections_drawn_without_replacement(tmp_path, loss_type):
    """Trained online and from kept samples, with KL and entropy terms: measures are those of the policy."""
    options = {"policy_kwargs": {"proposal": "without_replacement"}, "loss_type": loss_type, "temperature": 1.5}
    for reuse in ({}, {"steps_per_estimation": 2, "num_iterations": 2}):
        trainer = make_trainer(tmp_path, kl_coef=0.1, entropy_coef=0.1, max_steps=4, **options, **reuse)
        before = weights_of(trainer)
        trainer.train()
        assert parts(changed(before, weights_of(trainer))) >= {"selector", "generator"}
        assert all(0 < size <= 4.001 for size in logged(trainer, "ess"))
        assert all(0.25 < share < 1 for share in logged(trainer, "frac_unique_selections"))
        assert all(0 <= recall <= 1 for recall in logged(trainer, "selection_recall"))
        assert logged(trainer, "kl")[0] == pytest.approx(0.0, abs=1e-5)
        batch = trainer.estimate(trainer.model, {"rows": [trainer.train_dataset[0]], "draw": 0})
        assert len({tuple(selection) for selection in batch["selections"][0].tolist()}) == 4
        torch.testing.assert_close((batch["old_logps"] - batch["behavior_logps"]).exp().mean(), torch.tensor(1.0))


def test_the_written_policy_draws_with_replacement_alone(tmp_path):
    with pytest.raises(ValueError, match="'without_replacement'.*AutoregressivePolicy takes.*'proposal'"):
        make_trainer(tmp_path, policy=AUTOREGRESSIVE, policy_kwargs={"proposal": "without_replacement"})


def test_the_terms_of_the_loss_have_their_weights(tmp_path):
    trainer = make_trainer(tmp_path, entropy_coef=0.7, kl_coef=0.3, generator_loss_coef=2.0)
    batch = {"rows": [trainer.train_dataset[0], trainer.train_dataset[1]], "draw": 0}
    output = trainer._forward(trainer.model, batch)
    weight = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.7, 0.1, 0.1, 0.1]])
    log_ratios, ref_logps = torch.zeros(2, 4), torch.full((2, 4), -2.0)
    scored = ScoredSelections(output.selector_logps, log_ratios, torch.zeros(2, 4), ref_logps)
    answers = (output.answer_logps * output.answer_mask).sum(-1)[..., 0]
    logps = output.selector_logps
    expected = -((weight - 0.25) * logps).sum(-1).mean() - 2.0 * (weight * answers).sum(-1).mean()
    expected += 0.7 * terms.entropy_loss(logps, log_ratios) + 0.3 * terms.kl_loss(logps, ref_logps, log_ratios)
    torch.testing.assert_close(trainer.loss(output, scored, weight), expected)


@pytest.mark.parametrize("peft_config", [None, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("policy", ["dro_trl.PlackettLucePolicy", AUTOREGRESSIVE])
def test_activation_checkpointing_changes_no_number(tmp_path, policy, peft_config):
    """By plain gradient descent: Adam makes a step of any gradient, and rounding has a sign as well."""
    runs = []
    for on in (False, True):
        trainer = make_trainer(
            tmp_path,
            policy=policy,
            peft_config=peft_config,
            activation_checkpointing=on,
            max_steps=1,
            optim="sgd",
            learning_rate=0.1,
            max_grad_norm=0.0,
        )
        before = weights_of(trainer)
        trainer.train()
        assert any(getattr(m, "gradient_checkpointing", False) for m in trainer.model.modules()) is on
        assert changed(before, weights_of(trainer))
        runs.append((logged(trainer, "loss"), logged(trainer, "reward"), weights_of(trainer)))
    assert runs[1][0] == pytest.approx(runs[0][0], abs=1e-4)
    assert runs[1][1] == pytest.approx(runs[0][1], abs=1e-4)
    for name, weight in runs[0][2].items():
        torch.testing.assert_close(runs[1][2][name], weight, atol=1e-5, rtol=1e-4)


def test_bfloat16_trains(tmp_path):
    trainer = make_trainer(tmp_path, bf16=True, num_iterations=2)
    before = weights_of(trainer)
    trainer.train()
    assert parts(changed(before, weights_of(trainer))) == {"selector", "generator"}
    assert all(torch.isfinite(torch.tensor(logged(trainer, name))).all() for name in ("loss", "reward", "ess"))
