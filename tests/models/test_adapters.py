"""Two adapters on one base are two models with an adapter each, in everything but memory."""

import copy
import json

import pytest
import torch
from peft import IA3Config, LoraConfig
from transformers import AutoModelForCausalLM

from dro_trl import RAGPipeline, evidence_recall_reward, exact_match_reward
from tests.helpers.tiny_models import tiny_questions
from tests.helpers.training import LORA, make_trainer, questions, save_start, weights_of


def separate_name(name: str) -> str:
    """Return what a weight of the shared pair is called where each model has its own base."""
    for role in ("selector", "generator"):
        if f".{role}." in name:
            return name.replace("shared.", f"{role}.", 1).replace(f".{role}.", ".default.")
    return name


def adapters(trainer):
    return {separate_name(n): p for n, p in trainer.model.named_parameters() if "lora_" in n}


def twins(folder, **options):
    """Return a trainer of each kind, whose trained adapters have the same random weights, none of them zero."""
    trainers = [
        make_trainer(folder / str(shared), peft_config=LORA, shared_base=shared, optim="sgd", **options)
        for shared in (True, False)
    ]
    one, two = map(adapters, trainers)
    assert {name for name, weight in one.items() if weight.requires_grad} == two.keys()
    chance = torch.Generator().manual_seed(1)
    for name in sorted(two):
        two[name].data.copy_(one[name].data.normal_(std=0.3, generator=chance))
    return trainers


@pytest.mark.parametrize(
    "options",
    [
        {"kl_coef": 0.1, "generator_learning_rate": 3e-3},
        {"activation_checkpointing": True},
        {"activation_checkpointing": True, "policy": "dro_trl.AutoregressivePolicy", "num_iterations": 2},
        {"reward_funcs": [exact_match_reward, evidence_recall_reward], "entropy_coef": 0.1},
        {"train_selector": False},
        {"train_generator": False},
    ],
    ids=["KL", "recomputed", "recomputed, autoregressive", "generated answers", "selector frozen", "generator frozen"],
)
def test_training_is_that_of_two_models(tmp_path, options):
    """One backward for both: with plain SGD, weights that are equal after the steps had equal gradients."""
    shared, separate = twins(tmp_path, learning_rate=1e-2, max_steps=3, **options)
    frozen = {role for role in ("selector", "generator") if options.get(f"train_{role}") is False}
    start = {name: weight.detach().clone() for name, weight in adapters(shared).items()}
    for trainer in (shared, separate):
        trainer.train()
    found, wanted = adapters(shared), adapters(separate)
    for name, weight in found.items():
        trained = name.split(".")[0] not in frozen
        assert weight.requires_grad is trained
        assert weight.equal(start[name]) is not trained
        if trained:
            torch.testing.assert_close(weight, wanted[name], atol=1e-6, rtol=0)
    logs = [[record for record in t.state.log_history if "reward" in record] for t in (shared, separate)]
    assert len(logs[0]) == 3
    for one, other in zip(*logs, strict=True):
        assert one == pytest.approx(other, abs=1e-4)


def test_checkpointed_adapters_are_not_mixed_up(tmp_path):
    """The pass is made again with the adapter that it was made with; the last one used would give other gradients."""
    trainer, _ = twins(tmp_path)
    pair = trainer.model.train()
    checkpointed = copy.deepcopy(pair)
    checkpointed.activation_checkpointing_enable()
    gradients = []
    for module in (pair, checkpointed):
        module.zero_grad()
        output = module(
            tiny_questions(4, 5), num_selections=3, generators=[torch.Generator().manual_seed(i) for i in (0, 1)]
        )
        (output.selector_logps.sum() + output.answer_logps.sum()).backward()
        gradients.append({name: p.grad for name, p in module.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert len(gradients[0]) == len(adapters(trainer))
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="shared_base=True needs use_reentrant=False"):
        pair.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": True})


def test_the_base_is_there_once(tmp_path):
    shared, separate = (sum(p.numel() for p in trainer.model.parameters()) for trainer in twins(tmp_path))
    lora = sum(p.numel() for p in adapters(make_trainer(tmp_path, peft_config=LORA)).values())
    assert separate - lora == 2 * (shared - lora)


def test_saved_adapters_are_ordinary_ones(tmp_path, monkeypatch):
    """Each loads alone into transformers, and the pair into a pipeline that shares the base as well."""
    start = save_start(tmp_path / "start")
    trainer = make_trainer(tmp_path / "run", model=start, peft_config=LORA, shared_base=True, learning_rate=1e-2)
    trainer.train()
    trainer.save_model()
    input_ids = torch.tensor([[5, 6, 7, 8]])
    for role in ("selector", "generator"):
        folder = tmp_path / "run" / role
        assert not list(folder.glob("model*")), "the base is not saved again"
        monkeypatch.chdir(folder)  # From where its base is named.
        alone = AutoModelForCausalLM.from_pretrained(".")
        with torch.no_grad():
            found, wanted = alone(input_ids).logits, getattr(trainer.model, role).eval()(input_ids=input_ids).logits
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
    pipeline = RAGPipeline.from_pretrained(tmp_path / "run", dtype="float32")
    assert pipeline.selector.model is pipeline.generator.model
    rows = questions().to_list()
    shared = pipeline.predict(rows, max_new_tokens=4)
    config = tmp_path / "run" / "dro_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "shared_base": False}))
    separate = RAGPipeline.from_pretrained(tmp_path / "run", dtype="float32").predict(rows, max_new_tokens=4)
    assert [output.answer for output in shared] == [output.answer for output in separate]
    for one, other in zip(shared, separate, strict=True):
        assert one.scores == pytest.approx(other.scores, abs=1e-4)
    untrained = RAGPipeline.from_start(tmp_path / "run", dtype="float32").predict(rows, max_new_tokens=4)
    assert [output.scores for output in untrained] != [output.scores for output in shared]


def test_resuming(tmp_path):
    start = save_start(tmp_path / "start")
    options = {"model": start, "peft_config": LORA, "shared_base": True, "max_steps": 4, "save_strategy": "steps"}
    whole = make_trainer(tmp_path / "run", save_steps=2, **options)
    whole.train()
    resumed = make_trainer(tmp_path / "run", save_steps=2, **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    found, wanted = weights_of(resumed), weights_of(whole)
    assert all(found[name].equal(weight) for name, weight in wanted.items())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "shared_base=True needs a LoraConfig as peft_config, got NoneType"),
        ({"peft_config": IA3Config(target_modules=["q_proj"], feedforward_modules=[])}, "got IA3Config"),
        (
            {"peft_config": LoraConfig(target_modules=["q_proj"], bias="all")},
            r"peft_config.bias='all' do not go together, .* use bias='none', or shared_base=False",
        ),
        (
            {"peft_config": LoraConfig(target_modules=["q_proj"], modules_to_save=["lm_head"])},
            r"peft_config.modules_to_save=\['lm_head'\] do not .* use modules_to_save=None",
        ),
        (
            {"peft_config": LORA, "generator_name_or_path": "other"},
            "shared_base=True trains the generator on the selector's base; give no generator",
        ),
    ],
)
def test_what_cannot_share_a_base_is_refused(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        make_trainer(tmp_path, shared_base=True, **arguments)
