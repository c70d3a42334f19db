"""What sharded training saves loads in a fresh process, and is what one process saves."""

import json

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from dro_trl.lm.older_versions import IS_TORCH_2_9
from dro_trl.models.loading import load_model
from tests.helpers.launching import launch
from tests.helpers.tiny_models import tiny_questions
from tests.helpers.training import save_start

pytestmark = pytest.mark.backends


RECIPE = {
    "dtype": "float32",
    "bf16": False,
    "num_selected": 2,
    "num_selections": 4,
    "max_steps": 2,
    "optim": "sgd",
    "learning_rate": 1e-2,
    "report_to": "none",
    "disable_tqdm": True,
}
LORA = {"use_peft": True, "lora_r": 2, "lora_target_modules": ["q_proj", "v_proj"]}


def train(backend, folder, start, **options):
    """Train on two questions in all at a time, and return the folder of the two models."""
    per_device = 2 if backend == "one" else 1
    recipe = {**RECIPE, **options, "model_name_or_path": start, "per_device_train_batch_size": per_device}
    questions = folder.parent / "train.jsonl"
    questions.write_text("".join(json.dumps(question) + "\n" for question in tiny_questions(4, 5, 6, 4)))
    path = folder.parent / f"{folder.name}.yaml"
    path.write_text(yaml.safe_dump({**recipe, "dataset_name": str(questions), "output_dir": str(folder)}))
    launch(backend, "tests.helpers.recipe_program", "--config", str(path))
    return folder


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("kind", "config", "options"),
    [
        ("gemma3", {"tie_word_embeddings": True}, {}),
        pytest.param("llama", {}, {**LORA, "shared_base": True}, marks=pytest.mark.slow),
        pytest.param(
            "llama",
            {"hidden_size": 64, "intermediate_size": 128},
            {**LORA, "load_in_4bit": True},
            marks=[pytest.mark.slow, pytest.mark.skipif(IS_TORCH_2_9, reason="torch 2.9 cannot shard four bits")],
        ),
    ],
    ids=["tied embeddings", "one base, two adapters", "four bits"],
)
def test_sharded_models_are_saved_whole(tmp_path, kind, config, options):
    start = save_start(tmp_path / "start", kind, **config)
    backends = ("one", "zero3", "fsdp2")
    folders = {backend: train(backend, tmp_path / backend, start, **options) for backend in backends}
    untrained = AutoModelForCausalLM.from_pretrained(start).state_dict()
    for part in ("selector", "generator"):
        models = {name: load_model(str(folder / part)) for name, folder in folders.items()}
        weights = {name: model.state_dict() for name, model in models.items()}
        for name in ("zero3", "fsdp2"):
            assert weights[name].keys() == weights["one"].keys()
            for key, weight in weights["one"].items():
                torch.testing.assert_close(weights[name][key], weight, rtol=0, atol=1e-5)
            files = sorted(path.name for path in (folders[name] / part).iterdir())
            assert files == sorted(path.name for path in (folders["one"] / part).iterdir())
        if kind == "gemma3":
            model = models["zero3"]
            assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
        if options:
            assert any(weight.any() for key, weight in weights["one"].items() if "lora_B" in key)
        else:
            assert not all(torch.equal(weight, untrained[key]) for key, weight in weights["one"].items())
