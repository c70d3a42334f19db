"""Two processes under every backend train the same pair as one process does, from the same seed and batch."""

import json

import pytest
from safetensors.torch import load_file

from dro_trl.lm.older_versions import IS_TORCH_2_9
from tests.helpers.launching import BACKENDS, launch
from tests.helpers.train_program import SIZES

pytestmark = pytest.mark.backends


COMMON = {
    "batch": 4,
    "lora": False,
    "evaluate": False,
    "rewards": [],
    "questions": SIZES,
    "max_steps": 10,
    "policy": "dro_trl.PlackettLucePolicy",
    "lr_scheduler_type": "linear",
}
AUTOREGRESSIVE = {"policy": "dro_trl.AutoregressivePolicy"}
SGD = {"optim": "sgd", "learning_rate": 0.02}
CASES = {
    "encoded ahead": {"dataloader_num_workers": 1, **SGD},
    "plackett-luce, full, sgd": {**SGD, "evaluate": True, "predict_with_generate": True, "eval_max_new_tokens": 2},
    "plackett-luce, lora, adamw, accumulated": {"lora": True, "gradient_accumulation_steps": 2},
    "autoregressive, full, adamw, accumulated": {**AUTOREGRESSIVE, "gradient_accumulation_steps": 2},
    "autoregressive, lora, sgd": {**AUTOREGRESSIVE, **SGD, "lora": True, "evaluate": True},
    "off-policy windows, kl": {
        "lora": True,
        "gradient_accumulation_steps": 2,
        "steps_per_estimation": 2,
        "num_iterations": 2,
        "kl_coef": 0.1,
    },
    "answers generated": {"rewards": ["exact_match_reward", "token_f1_reward"], "entropy_coef": 0.1},
    "a choice behind others, lora": {
        "policy": "dro_trl.ConditionalScoresPolicy",
        "policy_kwargs": {"proposal": "without_replacement"},
        "lora": True,
        "evaluate": True,
    },
    "generator frozen": {**AUTOREGRESSIVE, "train_generator": False, "kl_coef": 0.1},
    "selector frozen": {"train_selector": False},
    "one base, two adapters": {"shared_base": True, "lora": True, "activation_checkpointing": True, "kl_coef": 0.1},
    "ppo, off-policy, kl": {**AUTOREGRESSIVE, "loss_type": "ppo", "num_iterations": 2, "kl_coef": 0.1},
    "weights learnt": {
        "lora": True,
        "evaluate": True,
        "policy_learning_rate": 0.05,
        "policy_kwargs": {
            "item_score": "query_likelihood",
            "score_temperature": 8.0,
            "answer_confidence": 0.5,
            "learn_weights": True,
        },
        "predict_with_generate": True,
        "eval_max_new_tokens": 2,
    },
    "one question": {"questions": [5], **SGD},
    "answers scored in several passes": {**SGD, "scoring_token_budget": 150},
    "what weighs little left out": {"min_generator_weight": 0.3, "scoring_token_budget": 150, "lora": True},
    "the same, off-policy, lora, checkpointing": {
        "min_generator_weight": 0.3,
        "lora": True,
        "scoring_token_budget": 150,
        "num_iterations": 2,
        "activation_checkpointing": True,
    },
}


NEEDS_A_NEWER_TORCH = {
    "fsdp2": {name for name, case in CASES.items() if "scoring_token_budget" in case and IS_TORCH_2_9}
}
"""What is refused with torch 2.9."""


def train(backend, folder, cases=CASES):
    folder.mkdir()
    cases = {name: case for name, case in cases.items() if name not in NEEDS_A_NEWER_TORCH.get(backend, ())}
    (folder / "cases.json").write_text(json.dumps({name: {**COMMON, **case} for name, case in cases.items()}))
    launch(backend, "tests.helpers.train_program", str(folder / "cases.json"))
    return folder


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return train("one", tmp_path_factory.mktemp("alone") / "one")


# A minute and a half each, of which the others leave little to find: ZeRO-1 shards less than ZeRO-2, and offloading is
# ZeRO-3 with its optimizer elsewhere.
LEFT_TO_SLOW = ("zero1", "zero3_offload")


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=pytest.mark.slow) if name in LEFT_TO_SLOW else name for name in BACKENDS],
)
def together(request, tmp_path_factory):
    return train(request.param, tmp_path_factory.mktemp("together") / request.param)


def drawn(folder):
    """Every draw, in an order that does not depend on who made it."""
    return sorted(entry for file in folder.glob("drawn_*.json") for entry in json.loads(file.read_text()))


def history(folder):
    return json.loads((folder / "history.json").read_text())


@pytest.mark.timeout(600)
@pytest.mark.parametrize("case", CASES)
def test_two_processes_train_as_one(alone, together, case):
    one, two = alone / case, together / case
    if case in NEEDS_A_NEWER_TORCH.get(together.name, ()):
        pytest.skip("scoring_token_budget under FSDP needs a newer torch")
    assert drawn(two) == drawn(one)
    assert len(list(two.glob("drawn_*.json"))) == 2

    expected, found = history(one), history(two)
    assert len(found) == len(expected) >= 10
    for first, second in zip(expected, found, strict=True):
        left_out = ["runtime", "per_second", "num_tokens"]
        if IS_TORCH_2_9 and together.name == "fsdp2":  # The accelerate beside it logs a process's part of the norm.
            left_out.append("grad_norm")
        names = [name for name in first if not any(word in name for word in left_out)]
        assert {name: second[name] for name in names} == pytest.approx(
            {name: first[name] for name in names}, rel=1e-5, abs=1e-4
        )
        # Padding is read as well, and smaller batches have less of it; where a model is sharded, a process with fewer
        # passes to make keeps the others company.
        assert ("num_tokens" in second) == ("num_tokens" in first) == ("reward" in first)
        assert 0 < second.get("num_tokens", 1) <= 2 * first.get("num_tokens", 1)

    before, after = load_file(one / "weights.safetensors"), load_file(two / "weights.safetensors")
    assert before.keys() == after.keys()
    assert expected[-1]["moved"] > 1e-3
    assert max(float((before[name] - after[name]).abs().max()) for name in before) <= 1e-5
