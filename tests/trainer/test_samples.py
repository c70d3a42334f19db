"""On which samples a trainer takes its steps, and how often on each."""

import pytest
import torch
from peft import LoraConfig
from torch import nn

from dro_trl.losses.dro import dro_loss
from tests.helpers.training import (
    LORA,
    changed,
    gradients,
    logged,
    make_trainer,
    questions,
    weights_of,
)

AUTOREGRESSIVE = "dro_trl.AutoregressivePolicy"


@pytest.mark.parametrize("reuse", [{}, {"num_iterations": 2}], ids=["on-policy", "off-policy"])
def test_two_micro_batches_are_one_batch_of_both(tmp_path, reuse):
    """SGD, since Adam's step would hide a gradient of the wrong scale."""
    after = []
    for size, accumulation in ((4, 1), (2, 2)):
        trainer = make_trainer(
            tmp_path,
            optim="sgd",
            learning_rate=1e-2,
            max_grad_norm=0.0,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=accumulation,
            max_steps=2,
            **reuse,
        )
        before = weights_of(trainer)
        trainer.train()
        after.append((weights_of(trainer), logged(trainer, "loss"), logged(trainer, "reward")))
    assert changed(before, after[0][0]) == set(before)
    for name, weight in after[0][0].items():
        torch.testing.assert_close(after[1][0][name], weight, atol=1e-6, rtol=1e-5)
    assert after[1][1] == pytest.approx(after[0][1], abs=1e-4)
    assert after[1][2] == pytest.approx(after[0][2], abs=1e-4)


@pytest.mark.parametrize(
    ("steps", "iterations", "estimated_before", "fresh"),
    [
        (1, 2, [0, 2, 4], [0, 2, 4]),
        (2, 1, [0, 2, 4], [0, 2, 4]),
        (3, 1, [0, 3], [0, 3]),  # The paper's alternation: six questions, two at a time, a whole pass.
        (2, 2, [0, 4], [0, 4]),
    ],
)
def test_samples_serve_as_many_steps_as_asked(tmp_path, steps, iterations, estimated_before, fresh):
    trainer = make_trainer(tmp_path, steps_per_estimation=steps, num_iterations=iterations, max_steps=6)
    estimations, used = [], []

    def estimate(model, batch, original=trainer.estimate):
        estimations.append((trainer.state.global_step, [row["question"] for row in batch["rows"]]))
        return original(model, batch)

    def compute_loss(model, inputs, *args, original=trainer.compute_loss, **kwargs):
        used.append(([row["question"] for row in inputs["rows"]], inputs["selections"], inputs["rewards"]))
        return original(model, inputs, *args, **kwargs)

    trainer.estimate, trainer.compute_loss = estimate, compute_loss
    trainer.train()
    assert sorted({step for step, _ in estimations}) == estimated_before
    assert len(estimations) == steps * len(estimated_before)
    ratios = logged(trainer, "log_ratio_abs")
    assert [step for step, ratio in enumerate(ratios) if ratio < 1e-5] == fresh
    for at, (asked, _, _) in enumerate(used):
        window, place = divmod(at, steps * iterations)
        assert asked == estimations[window * steps + place % steps][1]
    if iterations == 2:
        assert torch.equal(used[0][1], used[steps][1])
        assert torch.equal(used[0][2], used[steps][2])


def test_a_whole_pass_visits_every_question_once(tmp_path):
    trainer = make_trainer(tmp_path, steps_per_estimation=3, num_train_epochs=1, max_steps=-1)
    seen = []

    def estimate(model, batch, original=trainer.estimate):
        seen.extend(row["question"] for row in batch["rows"])
        return original(model, batch)

    trainer.estimate = estimate
    trainer.train()
    assert trainer.state.global_step == 3
    assert sorted(seen) == sorted(questions()["question"])


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"temperature": 0.5, "kl_coef": 0.1, "entropy_coef": 0.1, "likelihood_aliases": "best"},
        {"peft_config": LORA, "kl_coef": 0.1, "control_variate": False},
        {"policy": AUTOREGRESSIVE, "temperature": 2.0},
    ],
    ids=["plain", "all terms", "lora", "autoregressive"],
)
def test_estimation_then_maximization_is_the_online_step(tmp_path, kwargs):
    trainer = make_trainer(tmp_path, **kwargs)
    for name, p in trainer.model.named_parameters():
        if "lora_B" in name:  # Adapters begin at zero, where the reference is the selector.
            nn.init.normal_(p, std=0.1)
    batch = {"rows": [trainer.train_dataset[i] for i in (0, 2)], "draw": 5}
    fused_loss, fused = gradients(trainer, batch)
    trainer.model.train()
    estimated = trainer.estimate(trainer.model, batch)
    two_pass_loss, two_pass = gradients(trainer, {**batch, **estimated})
    assert two_pass_loss == pytest.approx(fused_loss, abs=1e-5 * abs(fused_loss))
    assert fused.keys() == two_pass.keys()
    for name, gradient in fused.items():
        torch.testing.assert_close(two_pass[name], gradient, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("estimated", [False, True])
def test_what_weighs_little_is_left_out_of_the_generators_gradient(tmp_path, estimated):
    """The gradient is that of the same loss with those weights at 0 in the generator's term alone.

    On-policy all answers are scored without gradient first; where rewards are known, those that count alone.
    """
    trainer = make_trainer(tmp_path, min_generator_weight=0.3)
    batch = {"rows": [trainer.train_dataset[i] for i in range(3)], "draw": 0}
    if estimated:
        batch |= trainer.estimate(trainer.model, batch)
    every = []
    scorer, score = trainer.model.scorer, trainer.model.scorer.logps
    scorer.logps = lambda *args: every.append((torch.is_grad_enabled(), args[3:])) or score(*args)
    _, found = gradients(trainer, dict(batch))
    assert [grad for grad, _ in every] == ([True] if estimated else [False, True])
    ((wanted,),) = [args for grad, args in every if grad]
    assert wanted.any(-1).all()
    assert not wanted.all()
    left_out = trainer.monitor.train.take()["left_out_weight"]
    assert 0 < left_out < 0.7

    trainer.args.min_generator_weight = 0.0
    _, everything = gradients(trainer, dict(batch))
    loss = trainer.loss
    trainer.loss = lambda output, scored, weight: (
        loss(output, scored, weight * wanted) + dro_loss(scored.logps, weight * ~wanted)
    )
    _, expected = gradients(trainer, dict(batch))
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-6, rtol=1e-4)
        same = torch.allclose(gradient, everything[name], atol=1e-6, rtol=1e-4)
        assert same or not name.startswith("selector.")
    assert any(not torch.allclose(found[name], everything[name], atol=1e-4) for name in found)


def test_a_second_run_of_one_trainer_draws_again(tmp_path):
    """What is left of a window when training ends is not used for other questions."""
    trainer = make_trainer(tmp_path, steps_per_estimation=2, num_iterations=2, max_steps=3, learning_rate=0.0)
    trainer.train()
    first = logged(trainer, "reward")
    trainer.train()
    assert logged(trainer, "reward") == first


def test_dropout_is_off_so_that_the_first_use_is_on_policy(tmp_path):
    noisy = LoraConfig(r=2, lora_dropout=0.5, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    trainer = make_trainer(tmp_path, peft_config=noisy, num_iterations=2, max_steps=1)
    trainer.train()
    assert logged(trainer, "log_ratio_abs")[0] < 1e-5
    trainer = make_trainer(tmp_path, peft_config=noisy, num_iterations=2, max_steps=1, disable_dropout=False)
    trainer.train()
    assert logged(trainer, "log_ratio_abs")[0] > 1e-3
