"""On a GPU: the same numbers as on a CPU, and what only a GPU has. Run with `pytest -m gpu`."""

import json

import pytest
import torch

from dro_trl import RAGPipeline
from dro_trl.evaluation.evaluator import evaluate_pair
from dro_trl.recipes.arguments import parse_recipe
from dro_trl.recipes.training import run_recipe
from tests.helpers.tiny_models import MODEL_TYPES, tiny_model, tiny_questions, tiny_tokenizer
from tests.helpers.training import LORA, gradients, logged, make_trainer, save_start, weights_of, write_recipe

pytestmark = pytest.mark.gpu
AUTOREGRESSIVE = "dro_trl.AutoregressivePolicy"
CASES = {
    "pointwise": {},
    "identifier": {"policy_kwargs": {"item_score": "identifier"}},
    "passage_end": {"policy_kwargs": {"item_score": "passage_end"}},
    "query_likelihood": {
        "policy_kwargs": {"item_score": "query_likelihood", "learn_weights": True, "retriever_prior": 1.0}
    },
    "autoregressive": {"policy": AUTOREGRESSIVE},
    "ppo": {"loss_type": "ppo", "kl_coef": 0.1, "peft_config": LORA},
    "grpo, two iterations": {"loss_type": "grpo", "num_iterations": 2, "policy": AUTOREGRESSIVE},
    "shared base": {"peft_config": LORA, "shared_base": True},
    "checkpointing, budget": {"activation_checkpointing": True, "scoring_token_budget": 64},
    "kept from an estimation step": {"steps_per_estimation": 2},
    "batches read ahead": {"dataloader_num_workers": 1},
}


def trained(folder, **options):
    """Return the logged measures and the weights, on the CPU, of a short run in float32, unless options say else."""
    trainer = make_trainer(folder, **{"bf16": False, **options})
    assert trainer.args.device.type == ("cpu" if options.get("use_cpu", True) else "cuda")
    trainer.train()
    measures = {name: logged(trainer, name) for name in ("loss", "reward", "entropy", "ess", "grad_norm")}
    assert all(len(values) == trainer.state.max_steps for values in measures.values())
    return measures, {name: weight.cpu() for name, weight in weights_of(trainer).items()}


@pytest.mark.parametrize("kind", MODEL_TYPES)
def test_gradients_equal_those_of_a_cpu(tmp_path, kind):
    found = []
    for use_cpu in (True, False):
        model = tiny_model(kind, tiny_tokenizer())
        trainer = make_trainer(tmp_path, model=model, use_cpu=use_cpu, bf16=False)
        found.append(gradients(trainer, {"rows": tiny_questions(4, 5), "draw": 0}))
    (loss, expected), (loss_on_gpu, grads) = found
    assert loss_on_gpu == pytest.approx(loss, abs=1e-5)
    assert expected.keys() == grads.keys()
    for name, grad in grads.items():
        torch.testing.assert_close(grad.cpu(), expected[name], atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
def test_training_equals_that_of_a_cpu(tmp_path, options):
    expected, weights = trained(tmp_path / "cpu", **options)
    on_gpu, weights_on_gpu = trained(tmp_path / "gpu", use_cpu=False, **options)
    for name, values in expected.items():
        assert on_gpu[name] == pytest.approx(values, abs=1e-3, rel=1e-3), name
    for name, weight in weights.items():
        torch.testing.assert_close(weights_on_gpu[name], weight, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("policy", ["dro_trl.PlackettLucePolicy", AUTOREGRESSIVE])
def test_bfloat16_stays_close_to_float32(tmp_path, policy):
    plain, _ = trained(tmp_path / "plain", policy=policy, use_cpu=False)
    mixed, _ = trained(tmp_path / "mixed", policy=policy, use_cpu=False, bf16=True)
    assert mixed["reward"] == pytest.approx(plain["reward"], rel=0.05)


@pytest.mark.parametrize("policy", ["dro_trl.PlackettLucePolicy", AUTOREGRESSIVE])
def test_compiled_layers_change_no_number(tmp_path, policy):
    torch.compiler.reset()
    plain, weights = trained(tmp_path / "plain", policy=policy, use_cpu=False)
    compiled, found = trained(tmp_path / "compiled", policy=policy, use_cpu=False, torch_compile_backend="inductor")
    assert compiled["loss"] == pytest.approx(plain["loss"], abs=1e-4)
    for name, weight in weights.items():
        torch.testing.assert_close(found[name], weight, atol=1e-4, rtol=1e-3)


def test_a_run_goes_on_from_its_checkpoint_as_if_it_had_not_stopped(tmp_path):
    _, whole = trained(tmp_path / "whole", use_cpu=False, max_steps=4, save_strategy="steps", save_steps=2)
    again = make_trainer(tmp_path / "whole", use_cpu=False, bf16=False, max_steps=4)
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    assert again.state.global_step == 4
    for name, weight in weights_of(again).items():
        torch.testing.assert_close(weight.cpu(), whole[name], atol=1e-6, rtol=1e-5)


def test_a_recipe_trains_and_its_pair_answers_on_the_gpu_as_on_a_cpu(tmp_path):
    save_start(tmp_path / "start")
    run_recipe(*parse_recipe(["--config", write_recipe(tmp_path, bf16=True, use_cpu=False, max_steps=2)]))
    results = json.loads((tmp_path / "out" / "train_results.json").read_text())
    assert results["peak_device_memory_bytes"] > 1_000_000
    found = []
    for device in ("cpu", "cuda"):
        options = {
            "device": device,
            "dtype": "float32",
            "max_new_tokens": 4,
            "batch_size": 2,
            "systems": ("trained", "start"),
        }
        report, predictions = evaluate_pair(tmp_path / "out", tiny_questions(4, 5, 6, 4), **options)
        found.append((report.systems, predictions))
    assert found[1] == found[0]


@pytest.mark.parametrize("adapters", [False, True])
def test_a_recipe_that_says_nothing_uses_the_gpu(tmp_path, adapters, capsys):
    """In bfloat16 where the card has it, with weights in float32 where they are trained themselves."""
    save_start(tmp_path / "start")
    unsaid = {"use_cpu": None, "dtype": None, "bf16": None, "lora_target_modules": ["q_proj", "v_proj"]}
    path = write_recipe(tmp_path, **unsaid, use_peft=adapters)
    trainer = run_recipe(*parse_recipe(["--config", path]))
    name, native = torch.cuda.get_device_name(0), torch.cuda.is_bf16_supported(including_emulation=False)
    assert trainer.model.device.type == "cuda"
    assert trainer.args.bf16 == native
    frozen = {weight.dtype for key, weight in trainer.model.named_parameters() if "lora_" not in key}
    assert frozen == {torch.bfloat16 if native and adapters else torch.float32}
    assert f"Training on cuda:0 ({name}) in {'bfloat16' if native else 'float32'}" in capsys.readouterr().out


def test_a_pair_is_used_on_the_gpu(tmp_path):
    save_start(tmp_path / "start")
    make_trainer(tmp_path / "pair", model=str(tmp_path / "start")).save_model()
    pair = RAGPipeline.from_pretrained(tmp_path / "pair")
    assert pair.selector.device == pair.generator.device == torch.device("cuda:0")
    native = torch.cuda.is_bf16_supported(including_emulation=False)
    assert pair.selector.dtype == (torch.bfloat16 if native else torch.float32)
    beyond = f"cuda:{torch.cuda.device_count()}"
    with pytest.raises(ValueError, match=f"device='{beyond}' is not one of this machine, which has cpu and cuda:0"):
        RAGPipeline.from_pretrained(tmp_path / "pair", device=beyond)
