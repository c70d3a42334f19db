"""The trainer on tiny models: what is trained, on which samples, with which rewards, and what is logged."""

import copy
import logging

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from torch import nn
from transformers import TrainerCallback

from dro_trl import AnswerLogLikelihood, PlackettLucePolicy, Retriever, evidence_recall_reward
from dro_trl.lm import encoding, prompts
from dro_trl.lm.generation import generate_answers
from dro_trl.losses import terms
from dro_trl.losses.base import ScoredSelections
from dro_trl.losses.dro import dro_loss
from dro_trl.models.saving import read_config
from dro_trl.trainer.monitoring import MEMORISED
from tests.helpers.tiny_models import tiny_model, tiny_questions, tiny_tokenizer
from tests.helpers.training import (
    LORA,
    changed,
    gradients,
    logged,
    make_trainer,
    questions,
    save_start,
    weights_of,
)

AUTOREGRESSIVE = "dro_trl.AutoregressivePolicy"


class EndOfStep(TrainerCallback):
    """Keeps what was sent to the log and, after each step, a copy of one weight of each model."""

    def __init__(self):
        self.logs = []

    def on_log(self, args, state, control, logs, **kwargs):
        self.logs.append(dict(logs))


def parts(names):
    return {name.partition(".")[0] for name in names}


# What is trained


def test_both_models_learn_and_every_measure_is_logged(tmp_path):
    reporter = EndOfStep()
    trainer = make_trainer(tmp_path, callbacks=[reporter])
    before = weights_of(trainer)
    trainer.train()
    assert parts(changed(before, weights_of(trainer))) == {"selector", "generator"}
    first = reporter.logs[0]
    assert first["rewards/answer_log_likelihood"] == pytest.approx(first["reward"])
    assert first["reward"] < first["iw_bound"] < 0 <= first["reward_std"]
    assert 1 <= first["ess"] <= first["num_selections"] == 4
    assert 1 / 4 <= first["frac_unique_selections"] <= 1
    assert 0 < first["entropy"] < 4
    assert 0 <= first["selection_recall"] <= 1
    assert first["log_ratio_abs"] < 1e-5
    assert first["loss"] == pytest.approx(-first["reward"], abs=3)


@pytest.mark.parametrize(("num_iterations", "passes"), [(1, [1, 2]), (2, [2, 3])])
def test_tokens_are_counted_once_for_all_selections_of_a_prompt(tmp_path, num_iterations, passes):
    """Without a generator to run: one pass of the prompts a step, and one more to draw what two steps use."""
    reporter = EndOfStep()
    trainer = make_trainer(
        tmp_path,
        callbacks=[reporter],
        per_device_train_batch_size=6,
        num_iterations=num_iterations,
        train_generator=False,
        reward_funcs=[evidence_recall_reward],
    )
    read = int((trainer.model.policy.encode(trainer.train_dataset.to_list()).batch.segments >= 0).sum())
    trainer.train()
    assert [log["num_tokens"] for log in reporter.logs if "num_tokens" in log] == [n * read for n in passes]


def test_recall_is_logged_only_where_gold_passages_are_known(tmp_path):
    rows = questions().map(lambda row, i: {"gold_ids": row["gold_ids"] if i else None}, with_indices=True)
    trainer = make_trainer(tmp_path, train_dataset=rows, max_steps=3)
    trainer.train()
    assert len(logged(trainer, "selection_recall")) == 3
    trainer = make_trainer(tmp_path, train_dataset=questions().remove_columns("gold_ids"), max_steps=1)
    trainer.train()
    assert len(logged(trainer, "reward")) == 1
    assert logged(trainer, "selection_recall") == []


@pytest.mark.parametrize("peft_config", [None, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("frozen", ["selector", "generator"])
def test_a_frozen_model_stays_the_same_bit_for_bit(tmp_path, frozen, peft_config):
    trainer = make_trainer(tmp_path, peft_config=peft_config, weight_decay=0.1, **{f"train_{frozen}": False})
    before = weights_of(trainer)
    trainer.train()
    assert parts(changed(before, weights_of(trainer))) == {"selector", "generator"} - {frozen}
    assert parts(n for n, p in trainer.model.named_parameters() if p.requires_grad) == {"selector", "generator"} - {
        frozen
    }


def test_lora_trains_the_adapters_and_nothing_else(tmp_path):
    trainer = make_trainer(tmp_path, peft_config=LORA, max_steps=3)
    before = weights_of(trainer)
    trainer.train()
    moved = changed(before, weights_of(trainer))
    assert parts(moved) == {"selector", "generator"}
    assert {name for name in moved if "lora_" not in name} == set()
    assert {name for name in before if "lora_" in name} == moved


def test_names_load_two_models_with_a_tokenizer_each(tmp_path):
    selector = save_start(tmp_path / "a", "llama")
    chat = tiny_tokenizer(chat=True)
    tiny_model("qwen3", chat, tie_word_embeddings=True).save_pretrained(tmp_path / "b")
    chat.save_pretrained(tmp_path / "b")
    trainer = make_trainer(
        tmp_path / "out", model=selector, generator_name_or_path=str(tmp_path / "b"), num_iterations=2
    )
    assert [type(m).__name__ for m in (trainer.model.selector, trainer.model.generator)] == [
        "LlamaForCausalLM",
        "Qwen3ForCausalLM",
    ]
    assert len(trainer.tokenizers["selector"]) != len(trainer.tokenizers["generator"])
    before = weights_of(trainer)
    trainer.train()
    assert parts(changed(before, weights_of(trainer))) == {"selector", "generator"}
    assert logged(trainer, "log_ratio_abs")[0] < 1e-5 < logged(trainer, "log_ratio_abs")[1]


def test_a_generator_object_of_another_architecture(tmp_path):
    tokenizer = tiny_tokenizer(split_digits=False)
    generator = tiny_model("gemma3", tokenizer)
    trainer = make_trainer(tmp_path, generator=generator, generator_processing_class=tokenizer)
    assert trainer.model.generator is generator
    before = weights_of(trainer)
    trainer.train()
    assert parts(changed(before, weights_of(trainer))) == {"selector", "generator"}


def test_without_a_generator_a_second_copy_of_the_selector_answers(tmp_path):
    trainer = make_trainer(tmp_path)
    pair = zip(trainer.model.selector.parameters(), trainer.model.generator.parameters(), strict=True)
    assert all(torch.equal(a, b) and a is not b for a, b in pair)
    assert trainer.tokenizers["selector"] is trainer.tokenizers["generator"]


def test_a_model_made_in_memory_needs_its_tokenizer(tmp_path):
    from dro_trl import DROTrainer
    from tests.helpers.training import options

    with pytest.raises(ValueError, match="^processing_class is not set"):
        DROTrainer(tiny_model("llama", tiny_tokenizer()), args=options(tmp_path), train_dataset=questions())
    with pytest.raises(ValueError, match="^generator_processing_class is not set"):
        make_trainer(tmp_path, generator=tiny_model("qwen2", tiny_tokenizer()))


def test_the_optimizer_has_a_rate_for_each_model_and_every_trained_weight_once(tmp_path):
    trainer = make_trainer(tmp_path, learning_rate=2e-3, generator_learning_rate=5e-4, weight_decay=0.3)
    optimizer = trainer.create_optimizer()
    names = {id(p): name for name, p in trainer.model.named_parameters()}
    seen = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(seen) == sorted(id(p) for p in trainer.model.parameters() if p.requires_grad)
    for group in optimizer.param_groups:
        (model,) = parts(names[id(p)] for p in group["params"])
        assert group["lr"] == {"selector": 2e-3, "generator": 5e-4}[model]
        of_norms = {"norm" in names[id(p)] for p in group["params"]}
        assert of_norms == ({True} if group["weight_decay"] == 0.0 else {False})
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0, 0.3}


@pytest.mark.parametrize(("rate", "expected"), [(None, 1e-3), (0.0, 0.0)])
def test_the_generators_rate_is_the_selectors_where_not_set(tmp_path, rate, expected):
    optimizer = make_trainer(tmp_path, generator_learning_rate=rate).create_optimizer()
    assert {group["lr"] for group in optimizer.param_groups} == {1e-3, expected}


def test_the_seed_decides_the_new_adapters_and_the_draws(tmp_path):
    runs = []
    for seed, noise in ((1, 7), (1, 8), (2, 7)):
        torch.manual_seed(noise)
        trainer = make_trainer(tmp_path, peft_config=LORA, seed=seed, max_steps=2)
        start = weights_of(trainer)
        trainer.train()
        runs.append((start, weights_of(trainer), logged(trainer, "loss")))
    assert changed(runs[0][0], runs[1][0]) == set() == changed(runs[0][1], runs[1][1])
    assert runs[0][2] == runs[1][2]
    assert changed(runs[0][0], runs[2][0]) != set()
    assert runs[0][2] != runs[2][2]


# Which samples


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


# Regularisation


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


# Rewards


def test_more_aliases_are_never_less_likely(tmp_path):
    rewards = {}
    for aliases in ("first", "best", "marginal"):
        trainer = make_trainer(tmp_path, likelihood_aliases=aliases)
        batch = {"rows": [trainer.train_dataset[i] for i in range(4)], "draw": 1}
        rewards[aliases] = trainer.estimate(trainer.model, batch)["rewards"]
    assert (rewards["best"] >= rewards["first"] - 1e-4).all()
    assert (rewards["marginal"] >= rewards["best"] - 1e-4).all()
    # The reward says for itself which aliases it reads.
    trainer = make_trainer(tmp_path, reward_funcs=AnswerLogLikelihood(aliases="marginal"))
    torch.testing.assert_close(trainer.estimate(trainer.model, batch)["rewards"], rewards["marginal"])


def test_rewards_add_up_with_their_weights_and_read_the_datasets_columns(tmp_path):
    seen = {}

    def by_note(note, selections, prompts, completions, **kwargs):
        seen.update(note=note, selections=selections, prompts=prompts, completions=completions, columns=set(kwargs))
        return [float(value) for value in note]

    def first_place(selections, **kwargs):
        return torch.tensor([float(selection[0]) for selection in selections])

    rows = questions().add_column("note", [10, 20, 30, 40, 50, 60])
    trainer = make_trainer(
        tmp_path,
        train_dataset=rows,
        reward_funcs=[by_note, first_place],
        reward_weights=[1, 0.5],
        train_generator=False,
    )
    batch = {"rows": [trainer.train_dataset[i] for i in (3, 1)], "draw": 0}
    trainer.model.train()
    estimated = trainer.estimate(trainer.model, batch)
    drawn = estimated["selections"].tolist()
    assert estimated["rewards"].tolist() == [
        [40 + 0.5 * z[0] for z in drawn[0]],
        [20 + 0.5 * z[0] for z in drawn[1]],
    ]
    assert seen["note"] == [40] * 4 + [20] * 4
    assert seen["selections"] == drawn[0] + drawn[1]
    assert seen["prompts"] == [rows[3]["question"]] * 4 + [rows[1]["question"]] * 4
    assert seen["completions"] == [prompts.format_selection(z) for z in drawn[0] + drawn[1]]
    assert {"question", "answers", "candidates", "gold_ids"} <= seen["columns"]
    assert "answer_logps" not in seen["columns"]
    trainer.train()
    assert logged(trainer, "rewards/by_note")[0] >= 10
    assert logged(trainer, "rewards/first_place")[0] >= 0


def test_a_reward_may_read_the_generators_answers(tmp_path):
    given = {}

    def longer(generated_answers, **kwargs):
        given.update(kwargs, generated=generated_answers)
        return [float(len(answer)) for answer in generated_answers]

    rows = tiny_questions(4, 4)
    rows[1]["question"] = rows[0]["question"]  # The same question with other candidates has other answers.
    trainer = make_trainer(tmp_path, train_dataset=Dataset.from_list(rows), reward_funcs=longer)
    trainer.model.train()
    batch = {"rows": [trainer.train_dataset[0], trainer.train_dataset[1]], "draw": 0}
    trainer.estimate(trainer.model, batch)
    assert trainer.model.generator.training
    read = [[c[i] for i in z] for c, z in zip(given["candidates"], given["selections"], strict=True)]
    expected = generate_answers(trainer.model.generator, tiny_tokenizer(), given["question"], read)
    assert given["generated"] == expected
    assert len(set(expected)) > 1
    trainer.train()
    assert len(logged(trainer, "rewards/longer")) == 2


def test_a_reward_written_for_trl(tmp_path):
    """Asynchronous, for a part of the questions, by the step that training has reached, with a metric of its own."""
    rows = tiny_questions(4, 4)
    rows[0]["solution"], rows[1]["solution"] = "[1]", ""

    async def starts_with(prompts, completions, solution, trainer_state, log_metric, log_extra=None, **kwargs):
        assert len(prompts) == len(completions) == 8
        assert log_extra is None
        log_metric("seen_at", trainer_state.global_step)
        return [
            float(text.startswith(start)) + trainer_state.global_step if start else None
            for text, start in zip(completions, solution, strict=True)
        ]

    def constant(completions, **kwargs):
        return [0.25] * len(completions)

    trainer = make_trainer(
        tmp_path, train_dataset=Dataset.from_list(rows), reward_funcs=[starts_with, constant], train_generator=False
    )
    trainer.train()
    assert logged(trainer, "seen_at") == [0, 1]
    rewards = [logged(trainer, f"rewards/{name}") for name in ("starts_with", "constant")]
    assert [low <= value <= low + 1 for low, value in enumerate(rewards[0])] == [True, True]
    assert rewards[1] == [0.25, 0.25]
    assert logged(trainer, "reward") == pytest.approx([value / 2 + 0.25 for value in rewards[0]])


def too_few(selections, **kwargs):
    return [0.0] * (len(selections) - 1)


def not_a_number(selections, **kwargs):
    return [0.0, float("nan"), *[1.0] * (len(selections) - 2)]


def nothing(selections, **kwargs):
    return [None] * len(selections)


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (too_few, "reward function too_few returned 7 values for 8 selections"),
        (
            not_a_number,
            r"reward function not_a_number returned nan for selection 1 \(\[\d\] > \[\d\] of question 'Who",
        ),
        (nothing, r"reward function nothing returned None for selection 0"),
    ],
)
def test_a_wrong_reward_ends_the_run(tmp_path, reward, message):
    trainer = make_trainer(tmp_path, reward_funcs=[reward])
    with pytest.raises(ValueError, match=message):
        trainer.train()
    assert trainer.state.global_step == 0


def test_weights_must_match_the_rewards(tmp_path):
    with pytest.raises(ValueError, match=r"reward_weights=\[1.0, 2.0\] has 2 entries for 1 .*too_few.*one for each"):
        make_trainer(tmp_path, reward_funcs=too_few, reward_weights=[1.0, 2.0])
    with pytest.raises(ValueError, match="reward_funcs=.. holds no reward"):
        make_trainer(tmp_path, reward_funcs=[])


# Policies


@pytest.mark.parametrize(
    ("path", "kwargs"),
    [
        (AUTOREGRESSIVE, None),
        ("dro_trl.PlackettLucePolicy", {"item_score": "identifier", "proposal": "policy"}),
    ],
)
def test_policies_by_their_dotted_path(tmp_path, path, kwargs):
    trainer = make_trainer(tmp_path, policy=path, policy_kwargs=kwargs)
    assert type(trainer.model.policy).__name__ == path.rpartition(".")[2]
    for name, value in (kwargs or {}).items():
        assert getattr(trainer.model.policy, name) == value
    before = weights_of(trainer)
    trainer.train()
    assert parts(changed(before, weights_of(trainer))) == {"selector", "generator"}
    assert logged(trainer, "log_ratio_abs")[0] < 1e-4


def test_an_unknown_policy_is_named(tmp_path):
    with pytest.raises(ValueError, match="policy='dro_trl.Nothing' is not the dotted path of a class"):
        make_trainer(tmp_path, policy="dro_trl.Nothing")
    with pytest.raises(ValueError, match=r"policy_kwargs=\{'prior': 1\} is not what .*PlackettLuce.*prior'"):
        make_trainer(tmp_path, policy_kwargs={"prior": 1})


class Backwards(PlackettLucePolicy):
    """A policy of the user's own: passages of low scores first."""

    def item_scores(self, model, inputs):
        scores = super().item_scores(model, inputs)
        return torch.where(inputs.item_mask, -scores, scores)


def test_a_policy_object(tmp_path):
    trainer = make_trainer(tmp_path, policy=Backwards(tiny_tokenizer(), 2))
    trainer.train()
    assert isinstance(trainer.model.policy, Backwards)
    trainer.save_model()
    assert read_config(tmp_path)["policy"] is None
    with pytest.raises(ValueError, match="policy.num_selected=3 and num_selected=2 differ"):
        make_trainer(tmp_path, policy=Backwards(tiny_tokenizer(), 3))


# Data


class ByTitle(Retriever):
    """Finds the passages of a small corpus, in an order that depends on the question."""

    def retrieve(self, questions, k):
        return [
            [
                {"id": f"{len(q)}-{i}", "title": f"t{i}", "text": f"passage {i} for {q}", "score": float(-i)}
                for i in range(k)
            ]
            for q in questions
        ]


def test_a_retriever_finds_candidates_where_there_are_none(tmp_path):
    bare = questions().remove_columns(["candidates", "gold_ids"])
    trainer = make_trainer(
        tmp_path,
        train_dataset=bare,
        eval_dataset=questions(),
        retriever=ByTitle(),
        num_candidates=3,
        shuffle_candidates=False,
    )
    for row, original in zip(trainer.train_dataset, bare, strict=True):
        assert [p["text"] for p in row["candidates"]] == [f"passage {i} for {original['question']}" for i in range(3)]
    assert trainer.eval_dataset.to_list() == questions().to_list()
    trainer.train()
    assert len(logged(trainer, "reward")) == 2


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (questions().remove_columns("candidates"), "train_dataset.*candidates"),
        (
            Dataset.from_list([*tiny_questions(4, 5), *tiny_questions(1)]),
            "train_dataset, row 3: field 'candidates': found 1 passages, fewer than num_selected=2; retrieve more",
        ),
        (
            Dataset.from_list([{**tiny_questions(4)[0], "answers": []}, *tiny_questions(4)]),
            "train_dataset, row 1.*answers",
        ),
    ],
    ids=["no candidates", "too few candidates", "no answer"],
)
def test_a_faulty_dataset_is_refused_at_once(tmp_path, dataset, message):
    with pytest.raises(ValueError, match=message):
        make_trainer(tmp_path, train_dataset=dataset)
    with pytest.raises(ValueError, match=message.replace("train_", "eval_")):
        make_trainer(tmp_path, eval_dataset=dataset)


def test_long_passages_are_cut_and_counted(tmp_path, caplog):
    rows = tiny_questions(3, 3)
    rows[0]["candidates"][1]["text"] = "Oslo"
    with caplog.at_level(logging.WARNING):
        trainer = make_trainer(
            tmp_path, train_dataset=Dataset.from_list(rows), max_passage_tokens=5, shuffle_candidates=False
        )
    assert "train_dataset: 5 of 6 passages cut to max_passage_tokens=5" in caplog.text
    texts = [p["text"] for row in trainer.train_dataset for p in row["candidates"]]
    assert texts[1] == "Oslo"
    originals = [p["text"] for row in rows for p in row["candidates"]]
    assert all(original.startswith(text) for text, original in zip(texts, originals, strict=True))
    stem, *ids = encoding.encode_all(tiny_tokenizer(), [":", *(f": {text}" for text in texts)])
    assert max(len(tokens) - len(stem) for tokens in ids) == 5
    assert trainer.train_dataset[1]["gold_ids"] == rows[1]["gold_ids"]


ANSWERED = {"id": "x", "title": "Founders", "text": "It was founded by ADA OSLO, a baker.", "score": 0.0}


@pytest.mark.parametrize(
    ("fields", "answerable"),
    [
        ({}, True),
        ({"answers": ["Ada Oslo", "nobody"]}, True),
        ({"answers": ["Oslo"]}, False),  # in the question
        ({"answers": ["Ada Osl"]}, False),  # half a word
        ({"answers": ["yes"], "question": "Is it a club? "}, False),
        ({"answers": ["Ada Quito"]}, False),
        ({"answers": ["Founders"]}, True),  # a title
        ({"answers": ["the"]}, False),  # in the question
    ],
)
def test_answerable_questions(tmp_path, caplog, fields, answerable):
    """What is left out is counted; where it would be most rows, they are pointed out even if they stay."""
    other = {**tiny_questions(4)[0], "answers": ["elsewhere"]}
    row = {**tiny_questions(4)[0], "answers": ["Ada Oslo"], **fields}
    row["candidates"] = [{**p, "text": "yes, " + p["text"].partition(" founded")[0]} for p in row["candidates"]]
    row["candidates"][2] = ANSWERED
    rows = Dataset.from_list([row, other, other])
    with caplog.at_level(logging.WARNING):
        assert len(make_trainer(tmp_path, train_dataset=rows, eval_dataset=rows).train_dataset) == 3
        found = f"and not in the question, in {int(answerable)} of 3 rows"
        assert f"{found}; in the others its likelihood says little" in caplog.text
        if not answerable:
            with pytest.raises(
                ValueError, match=f"train_dataset: .* {found}, and answerable_only=True leaves nothing"
            ):
                make_trainer(tmp_path, train_dataset=rows, answerable_only=True)
            return
        trainer = make_trainer(tmp_path, train_dataset=rows, eval_dataset=rows, answerable_only=True)
    assert [r["answers"] for r in trainer.train_dataset] == [row["answers"]]
    assert len(trainer.eval_dataset) == 3
    assert "the other 2 are left out (answerable_only=True)" in caplog.text


def test_the_retrievers_order_is_hidden_from_training_alone(tmp_path):
    def order(rows):
        return [[p["id"] for p in row["candidates"]] for row in rows]

    rows = Dataset.from_list(tiny_questions(6, 6, 6, 6, 6, 6))
    one, same, other = (
        make_trainer(tmp_path, train_dataset=rows, eval_dataset=rows, seed=seed, shuffle_candidates=True)
        for seed in (1, 1, 2)
    )
    assert order(one.train_dataset) == order(same.train_dataset) != order(other.train_dataset)
    assert sum(a != b for a, b in zip(order(one.train_dataset), order(rows), strict=True)) >= 4
    assert len({tuple(i.partition("-")[2] for i in ids) for ids in order(one.train_dataset)}) >= 4
    assert list(map(sorted, order(one.train_dataset))) == order(rows) == order(one.eval_dataset)
    kept = make_trainer(tmp_path, train_dataset=rows, shuffle_candidates=False)
    assert order(kept.train_dataset) == order(rows)


def test_repeated_visits_are_told(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        make_trainer(tmp_path, per_device_train_batch_size=4).get_train_dataloader()
    assert "6 questions do not fill 2 estimation steps of 4 questions: 2 visits" in caplog.text


def test_training_needs_a_dataset(tmp_path):
    trainer = make_trainer(tmp_path)
    trainer.train_dataset = None
    with pytest.raises(ValueError, match="training needs a train_dataset"):
        trainer.train()


# Logging and evaluation


def test_evaluation_measures_the_same_things_each_time(tmp_path):
    trainer = make_trainer(
        tmp_path, eval_dataset=questions(), per_device_eval_batch_size=3, eval_strategy="steps", eval_steps=1
    )
    first, again = trainer.evaluate(), trainer.evaluate()
    names = ("loss", "reward", "iw_bound", "ess", "entropy", "frac_unique_selections", "selection_recall")
    assert {f"eval_{name}": first[f"eval_{name}"] for name in names} == {
        f"eval_{n}": again[f"eval_{n}"] for n in names
    }
    assert trainer.evaluate(metric_key_prefix="test")["test_reward"] == first["eval_reward"]
    before = weights_of(trainer)
    trainer.evaluate()
    assert changed(before, weights_of(trainer)) == set()
    trainer.train()
    assert len(logged(trainer, "eval_reward")) == 2 == len(logged(trainer, "reward"))
    assert logged(trainer, "eval_reward")[0] != first["eval_reward"]


def test_the_best_checkpoint_is_kept_by_a_measure_of_ours(tmp_path):
    def drop(trainer_state):  # A reward that is best after the first step, so that the best is not the last.
        return -abs(trainer_state.global_step - 1)

    def rising_then_falling(selections, **kwargs):
        return [float(drop(trainer.state))] * len(selections)

    trainer = make_trainer(
        tmp_path,
        reward_funcs=rising_then_falling,
        eval_dataset=questions(),
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        max_steps=3,
        load_best_model_at_end=True,
        metric_for_best_model="eval_reward",
        greater_is_better=True,
    )
    kept = {}

    class Keep(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            kept[state.global_step] = weights_of(trainer)

    trainer.add_callback(Keep())
    trainer.train()
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-1")
    assert changed(kept[1], kept[3]) != set()
    assert changed(kept[1], weights_of(trainer)) == set()


def test_the_table_of_selections_is_printed_now_and_then(tmp_path, capsys):
    make_trainer(tmp_path, log_selections=True, num_selections_to_print=1, logging_steps=2, max_steps=4).train()
    printed = capsys.readouterr().out
    assert printed.count("Sampled selections at step 2") == 1 == printed.count("Sampled selections at step 4")
    assert "step 1" not in printed
    assert "[1] >" in printed or "[2] >" in printed or "[3] >" in printed or "[4] >" in printed


def test_a_collapse_reaches_the_log(tmp_path, caplog):
    def all_the_same(selections, **kwargs):
        return [1.0] * len(selections)

    rows = Dataset.from_list(tiny_questions(6, 6, 6, 6)).remove_columns("gold_ids")
    flat = tiny_model("llama", tiny_tokenizer(), initializer_range=0.001)
    trainer = make_trainer(
        tmp_path, model=flat, train_dataset=rows, reward_funcs=all_the_same, train_generator=False, max_steps=4
    )
    trainer.monitor.collapse.window = 3
    with caplog.at_level(logging.WARNING):
        trainer.train()
    beginning = MEMORISED.partition(":")[0]
    assert [beginning in record.getMessage() for record in caplog.records].count(True) == 1
