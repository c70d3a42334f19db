"""Trainers of tiny models, as several test files need them."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import yaml
from datasets import Dataset
from peft import LoraConfig
from transformers import PreTrainedModel

from dro_trl import DROConfig, DROTrainer
from tests.helpers.tiny_models import tiny_model, tiny_questions, tiny_tokenizer

LORA = LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")


def questions() -> Dataset:
    """Return six questions of four to six candidates each."""
    return Dataset.from_list(tiny_questions(4, 5, 6, 4, 5, 4))


def options(folder: Path, **kwargs: Any) -> DROConfig:
    """Return options for a run of a few steps on two questions each."""
    defaults = {
        "num_selected": 2,
        "num_selections": 4,
        "max_steps": 2,
        "per_device_train_batch_size": 2,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
    }
    return DROConfig(str(folder), **{**defaults, **kwargs})


def make_trainer(folder: Path, *, model: str | PreTrainedModel | None = None, **kwargs: Any) -> DROTrainer:
    """Return a trainer of a tiny Llama; arguments of `DROTrainer` go there, all others into its options.

    `policy` is the argument if it is an object, and the option if it is a dotted path.
    """
    of_trainer = {
        "generator",
        "eval_dataset",
        "generator_processing_class",
        "reward_funcs",
        "retriever",
        "policy",
        "peft_config",
        "callbacks",
        "optimizers",
    }
    if isinstance(kwargs.get("policy"), str):
        of_trainer.remove("policy")
    given = {name: kwargs.pop(name) for name in of_trainer & kwargs.keys()}
    dataset = kwargs.pop("train_dataset") if "train_dataset" in kwargs else questions()
    trainer_class = kwargs.pop("trainer_class", DROTrainer)
    tokenizer = kwargs.pop("processing_class", None) or (None if isinstance(model, str) else tiny_tokenizer())
    return trainer_class(
        model=model or tiny_model("llama", tiny_tokenizer()),
        args=options(folder, **kwargs),
        train_dataset=dataset,
        processing_class=tokenizer,
        **given,
    )


def save_start(folder: Path, kind: str = "llama", **config: Any) -> str:
    """Write a tiny model and its tokenizer, and return their folder."""
    tiny_model(kind, tiny_tokenizer(), **config).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return str(folder)


def weights_of(trainer: DROTrainer) -> dict[str, torch.Tensor]:
    """Return copies of all weights of both models."""
    return {name: weight.detach().clone() for name, weight in trainer.model.state_dict().items()}


def parts(names: Iterable[str]) -> set[str]:
    """Return the models that weights of these names belong to."""
    return {name.partition(".")[0] for name in names}


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    """Return the names of the weights that are not the same bit for bit."""
    assert before.keys() == after.keys()
    return {name for name, weight in before.items() if not torch.equal(weight, after[name])}


def logged(trainer: DROTrainer, name: str) -> list[float]:
    """Return the values of a measure in the order in which they were logged."""
    return [record[name] for record in trainer.state.log_history if name in record]


def gradients(trainer: DROTrainer, batch: dict[str, Any]) -> tuple[float, dict[str, torch.Tensor]]:
    """Return the loss of a batch and the gradient of every trained weight."""
    trainer.model.train()
    trainer.model.zero_grad()
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    grads = {name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.grad is not None}
    return float(loss.detach()), grads


def write_recipe(folder, **lines):
    """Write a recipe that trains two steps on a few questions; return its path and its lines."""
    rows = tiny_questions(4, 5, 6, 4)
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {
        "model_name_or_path": str(folder / "start"),
        "dataset_name": str(folder / "train.jsonl"),
        "output_dir": str(folder / "out"),
        "num_selected": 2,
        "num_selections": 3,
        "per_device_train_batch_size": 2,
        "num_train_epochs": 1,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "dtype": "float32",  # With `bf16`: the same numbers on every processor. None leaves a line out.
        "bf16": False,
        **lines,
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({name: value for name, value in recipe.items() if value is not None}))
    return str(path)
