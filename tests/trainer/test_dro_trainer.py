"""The trainer on tiny models: what is trained, by which policy."""

import pytest
import torch
from transformers import TrainerCallback

from dro_trl import PlackettLucePolicy, evidence_recall_reward
from dro_trl.models.saving import read_config
from tests.helpers.tiny_models import tiny_model, tiny_tokenizer
from tests.helpers.training import (
    LORA,
    changed,
    logged,
    make_trainer,
    parts,
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
