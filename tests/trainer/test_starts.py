"""Training goes on from a finished pair: at step 0 it is the pair, and what is trained and saved starts there."""

import json
import logging
from functools import partial
from pathlib import Path

import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel
from transformers import AutoModelForCausalLM

from dro_trl import RAGPipeline
from dro_trl.models.loading import load_model
from dro_trl.models.saving import read_config
from dro_trl.recipes.arguments import parse_recipe
from dro_trl.recipes.estimates.estimate import describe_run
from dro_trl.recipes.estimates.quantities import Backend
from dro_trl.recipes.training import run_recipe
from dro_trl.recipes.warmup import parse_warmup, run_warmup
from dro_trl.trainer.starts import learnt_start
from tests.helpers.tiny_models import tiny_model, tiny_questions, tiny_tokenizer
from tests.helpers.training import LORA, logged, make_trainer, save_start, weights_of, write_recipe

IDS = torch.tensor([[5, 6, 7, 8, 9]])
ROLES = ("selector", "generator")
OTHER = LoraConfig(r=3, target_modules=["k_proj"], task_type="CAUSAL_LM")

loaded = partial(RAGPipeline.from_pretrained, dtype="float32")
start_of = partial(RAGPipeline.from_start, dtype="float32")


def logits(model):
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


def distance(one, other):
    return (logits(one) - logits(other)).abs().max().item()


def finished(folder, **options):
    """Train a pair far from its base, and return its folder."""
    trainer = make_trainer(folder, model=save_start(folder.parent / "base"), learning_rate=0.1, **options)
    trainer.train()
    trainer.save_model()
    return str(folder)


@pytest.fixture(scope="module")
def firsts(tmp_path_factory):
    """A finished pair of each kind."""
    root = tmp_path_factory.mktemp("firsts")
    kinds = {"full": {}, "lora": {"peft_config": LORA}, "shared": {"peft_config": LORA, "shared_base": True}}
    return {kind: finished(root / kind / "first", **options) for kind, options in kinds.items()}


def base():
    return tiny_model("llama", tiny_tokenizer())


@pytest.mark.parametrize("split", [False, True], ids=["the pair", "its two models"])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("full", {}),
        ("full", {"peft_config": LORA}),
        ("lora", {"peft_config": LORA}),
        ("lora", {"peft_config": OTHER}),
        ("lora", {}),
        ("lora", {"peft_config": LORA, "shared_base": True}),
        ("lora", {"peft_config": LORA, "train_generator": False}),
        ("shared", {"peft_config": LORA, "shared_base": True}),
        ("shared", {"peft_config": LORA}),
        ("shared", {"peft_config": OTHER}),
        ("shared", {}),
    ],
)
def test_a_second_round_starts_at_the_pair(tmp_path, firsts, kind, options, split):
    """Identical logits at step 0, far from the base; what is then saved is what was trained, and knows its start."""
    first = firsts[kind]
    given = {"model": first}
    if split:
        given = {"model": f"{first}/selector", "generator_name_or_path": f"{first}/generator"}
    pair, before = loaded(first), base()
    trainer = make_trainer(tmp_path / "second", **given, **options, learning_rate=0.1)
    for role in ROLES:
        assert distance(getattr(trainer.model, role), getattr(pair, role)) < 1e-4
        assert distance(getattr(trainer.model, role), before) > 0.1
    trainer.train()
    trainer.save_model()
    second, start = (load(tmp_path / "second") for load in (loaded, start_of))
    for role in ROLES:
        trained = options.get(f"train_{role}", True)
        assert distance(getattr(second, role), getattr(trainer.model, role)) < 1e-4
        assert distance(getattr(start, role), getattr(pair, role)) < 1e-4
        assert (distance(getattr(second, role), getattr(pair, role)) > 0.01) is trained


@pytest.mark.parametrize(
    "config",
    [
        {"use_dora": True, "target_modules": "all-linear"},
        {"use_rslora": True, "target_modules": ["q_proj"], "bias": "all"},
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
        {"target_modules": None, "trainable_token_indices": [5, 6]},
    ],
    ids=["dora", "rslora with biases", "modules to save", "tokens"],
)
def test_every_kind_of_adapter_goes_on(tmp_path, config, caplog):
    """What is trained is what a new adapter of this config would train, and nothing is put over it."""
    lora = LoraConfig(r=2, task_type="CAUSAL_LM", **config)
    first = finished(tmp_path / "first", peft_config=lora)
    with caplog.at_level(logging.WARNING, "dro_trl.trainer.starts"):
        again = make_trainer(tmp_path / "second", model=first, peft_config=lora)
    assert [r.getMessage() for r in caplog.records if r.name == "dro_trl.trainer.starts"] == [
        f"the {role} goes on with the adapter of {first}/{role}" for role in ROLES
    ]
    fresh = make_trainer(tmp_path / "third", model=str(tmp_path / "base"), peft_config=lora)
    trained = [{n for n, p in t.model.named_parameters() if p.requires_grad} for t in (again, fresh)]
    assert trained[0] == trained[1]
    pair = loaded(first)
    for role in ROLES:
        assert distance(getattr(again.model, role), getattr(pair, role)) < 1e-5  # Trained layers round otherwise.
        assert distance(getattr(again.model, role), base()) > 0.01


def test_a_new_adapter_is_said_and_saved_against_what_it_was_put_on(tmp_path, firsts, caplog):
    with caplog.at_level(logging.WARNING, "dro_trl.trainer.starts"):
        trainer = make_trainer(tmp_path / "second", model=firsts["lora"], peft_config=OTHER)
    said = caplog.records[0].getMessage()
    assert said.startswith(f"the selector's adapter of {firsts['lora']}/selector is merged into its base, in ")
    assert "r was 2 and is now 3" in said
    assert "target_modules was ['q_proj', 'v_proj'] and is now ['k_proj']" in said
    with trainer.model.selector.disable_adapter():
        found = logits(trainer.model.selector)
    torch.testing.assert_close(found, logits(load_model(f"{firsts['lora']}/selector")), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["lora", "shared"])
def test_the_kl_term_is_to_the_pair_and_not_to_the_bare_base(tmp_path, firsts, kind):
    """At the first step the selector is its reference, and later it is not."""
    options = {"model": firsts[kind], "peft_config": LORA, "shared_base": kind == "shared", "kl_coef": 0.1}
    trainer = make_trainer(tmp_path / "second", **options, learning_rate=0.05)
    trainer.train()
    kl = logged(trainer, "kl")
    assert kl[0] == pytest.approx(0, abs=1e-6)
    assert abs(kl[1]) > 1e-4
    reference = trainer.model.reference
    assert not any(parameter.requires_grad for parameter in reference.parameters())
    assert distance(reference, load_model(f"{firsts[kind]}/selector")) < 1e-5


def test_biases_that_are_trained_do_not_move_the_reference(tmp_path):
    """Switching an adapter off leaves its biases on."""
    model = tiny_model("qwen2", tiny_tokenizer())
    lora = LoraConfig(r=2, target_modules=["q_proj"], bias="all", task_type="CAUSAL_LM")
    trainer = make_trainer(tmp_path, model=model, peft_config=lora, kl_coef=0.1, learning_rate=0.1)
    trainer.train()
    assert distance(trainer.model.reference, tiny_model("qwen2", tiny_tokenizer())) == 0.0


def test_resuming_a_second_round_is_exact(tmp_path, firsts):
    options = {"peft_config": LORA, "max_steps": 4, "save_strategy": "steps", "save_steps": 2, "kl_coef": 0.1}
    whole, rest = (make_trainer(tmp_path / "second", model=firsts["lora"], **options) for _ in range(2))
    whole.train()
    rest.train(resume_from_checkpoint=str(tmp_path / "second" / "checkpoint-2"))
    found, wanted = weights_of(rest), weights_of(whole)
    assert all(found[name].equal(weight) for name, weight in wanted.items())


def test_what_the_policy_has_learnt_goes_on(tmp_path, caplog):
    kwargs = {"retriever_prior": 0.5, "learn_weights": True}
    options = {"peft_config": LORA, "policy_kwargs": kwargs, "policy_learning_rate": 0.3}
    first = finished(tmp_path / "first", **options)
    learnt = read_config(tmp_path / "first")["learnt_policy_kwargs"]
    assert abs(learnt["retriever_prior"] - 0.5) > 0.1
    second = make_trainer(tmp_path / "second", model=first, **options)
    start = second.model.score_weights.weight.tolist()
    assert start == pytest.approx([1 / learnt["score_temperature"], learnt["retriever_prior"]])
    second.train()
    second.save_model()
    saved = read_config(tmp_path / "second")
    assert saved["learnt_policy_kwargs"]["retriever_prior"] != pytest.approx(start[1], abs=1e-3)
    for load, expected in ((loaded, "learnt_policy_kwargs"), (start_of, None)):
        weights = load(tmp_path / "second").policy.score_weights.weight.tolist()
        wanted = saved[expected] if expected else learnt
        assert weights == pytest.approx([1 / wanted["score_temperature"], wanted["retriever_prior"]])
    fixed = make_trainer(tmp_path / "third", model=first, peft_config=LORA, policy_kwargs={"retriever_prior": 0.5})
    assert fixed.model.policy.score_weights.weight.tolist() == pytest.approx(start)
    fixed.save_model()
    assert read_config(tmp_path / "third")["learnt_policy_kwargs"] == pytest.approx(learnt)
    with caplog.at_level(logging.WARNING, "dro_trl.trainer.starts"):
        other = make_trainer(
            tmp_path / "fourth", model=first, peft_config=LORA, policy_kwargs={"retriever_prior": 2.0}
        )
    assert other.model.policy.score_weights.weight.tolist() == [1.0, 2.0]
    (said,) = [r.getMessage() for r in caplog.records if "reads it otherwise" in r.getMessage()]
    assert "policy_kwargs.retriever_prior was 0.5 and is now 2.0" in said
    assert "the weights that its policy has learnt are left" in said


def test_a_pair_says_nothing_of_a_start_that_is_none_of_it(tmp_path, firsts):
    args = make_trainer(tmp_path).args
    assert learnt_start(base(), "dro_trl.PlackettLucePolicy", args) is None
    assert learnt_start(f"{firsts['lora']}/generator", "dro_trl.PlackettLucePolicy", args) is None


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (
            "lora",
            {"shared_base": True, "peft_config": OTHER},
            "cannot be merged into one base; .*r was 2 and is now 3",
        ),
        ("lora", {"shared_base": True}, "give the peft_config that they have .it is None., or shared_base=False"),
        ("full", {"shared_base": True, "peft_config": LORA}, "give no generator, or two saved adapters of one base"),
    ],
)
def test_starts_that_do_not_go_together_are_refused(tmp_path, firsts, kind, options, message):
    with pytest.raises(ValueError, match=message):
        make_trainer(tmp_path, model=firsts[kind], **options)


def test_a_run_does_not_write_over_its_own_start(firsts):
    with pytest.raises(ValueError, match="is the pair that training starts from, .* give another folder"):
        make_trainer(firsts["lora"], model=firsts["lora"], peft_config=LORA)


def test_adapters_in_memory(tmp_path, firsts, monkeypatch):
    """PEFT's go on or are refused; those that transformers put on a model are refused."""
    folder = f"{firsts['lora']}/selector"
    for config in (None, LORA):
        held = PeftModel.from_pretrained(base(), folder, is_trainable=True)
        trainer = make_trainer(tmp_path, model=held, peft_config=config)
        assert distance(trainer.model.selector, load_model(folder)) < 1e-5
        assert all("lora_" in n for n, p in trainer.model.named_parameters() if p.requires_grad)
    for other in (OTHER, IA3Config(target_modules=["q_proj"], feedforward_modules=[])):
        with pytest.raises(ValueError, match="give None to train its adapter further, or merge it first"):
            make_trainer(tmp_path, model=PeftModel.from_pretrained(base(), folder), peft_config=other)
    monkeypatch.chdir(folder)  # From where its base is named.
    with pytest.raises(ValueError, match="holds an adapter that transformers put on it"):
        make_trainer(tmp_path, model=AutoModelForCausalLM.from_pretrained("."), peft_config=LORA)


@pytest.mark.parametrize(
    ("lines", "merged"),
    [({}, False), ({"lora_r": 3, "lora_alpha": 4, "lora_dropout": 0.0}, True), ({"use_peft": False}, True)],
    ids=["nothing said of it", "another", "all weights"],
)
def test_a_recipe_goes_on(tmp_path, firsts, lines, merged):
    """`use_peft: true` alone trains what there is further."""
    path = write_recipe(tmp_path, **{"model_name_or_path": firsts["lora"], "use_peft": True, "max_steps": 1, **lines})
    trainer = run_recipe(*parse_recipe(["--config", path]))
    assert (tmp_path / "out" / "start" / "selector" / "config.json").is_file() is merged
    rows, pair = tiny_questions(4, 5), loaded(firsts["lora"])
    start = start_of(tmp_path / "out")
    for one, other in zip(start.predict(rows, max_new_tokens=3), pair.predict(rows, max_new_tokens=3), strict=True):
        assert (one.answer, one.passages) == (other.answer, other.passages)
    config = getattr(trainer.model.selector, "peft_config", {"default": None})["default"]
    assert getattr(config, "r", None) == (None if "use_peft" in lines else lines.get("lora_r", 2))
    assert json.loads((tmp_path / "out" / "dro_config.json").read_text())["start"]["selector"]


@pytest.mark.parametrize("lines", [{}, {"lora_r": 3}, {"use_peft": False}], ids=["on", "another", "all weights"])
def test_a_warm_up_goes_on_too(tmp_path, firsts, lines):
    """At a learning rate of nothing the whole model that it saves is the one that it started from."""
    path = write_recipe(tmp_path, model_name_or_path=firsts["lora"], num_selections=None, use_peft=True)
    given = {"learning_rate": 0.0, "max_steps": 1, "disable_tqdm": True, **lines}
    arguments = [f"--{name}={value}" for name, value in given.items()]
    for part in ROLES:
        trainer = run_warmup(part, *parse_warmup(["--config", path, *arguments, f"--output_dir={tmp_path / part}"]))
        assert isinstance(trainer.model, PeftModel) is ("use_peft" not in lines)
        assert distance(load_model(str(tmp_path / part)), load_model(f"{firsts['lora']}/{part}")) < 1e-4


def test_what_a_second_round_needs_is_estimated(tmp_path, firsts):
    path = write_recipe(tmp_path, model_name_or_path=firsts["lora"], use_peft=True)
    found = describe_run(*parse_recipe(["--config", path]), Backend("one process", 1))
    expected = write_recipe(tmp_path, model_name_or_path=str(Path(firsts["lora"]).parent / "base"), use_peft=True)
    script, args, model = parse_recipe(["--config", expected, "--lora_r", "2"])
    assert found.selector == describe_run(script, args, model, Backend("one process", 1)).selector
