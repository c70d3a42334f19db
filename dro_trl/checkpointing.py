"""Saving the two models, each in a folder of its own that `from_pretrained` loads, and reading them back."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import AutoPeftModelForCausalLM, PeftModel, set_peft_model_state_dict
from peft.utils import load_peft_weights
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from dro_trl.atomic_write import write_json
from dro_trl.modeling import SelectorGenerator
from dro_trl.policies.score_weights import learnt_kwargs, learnt_weight
from dro_trl.prompts import Tokenizer
from dro_trl.shared_base import AdapterView

CONFIG_NAME = "dro_config.json"
CONFIG_FIELDS = (
    "policy",
    "policy_kwargs",
    "learnt_policy_kwargs",
    "prompt_texts",
    "chat",
    "chat_template_kwargs",
    "turns",
    "max_thinking_tokens",
    "num_selected",
    "num_candidates",
    "max_passage_tokens",
    "shared_base",
    "start",
)
MODELS = ("selector", "generator")
VALUE_HEAD_NAME = "value_head.safetensors"


def save_models(
    pair: SelectorGenerator, folder: Path, tokenizers: dict[str, Tokenizer], state_dict: dict[str, Tensor] | None
) -> None:
    """Write `selector/` and `generator/` under `folder`, and beside them the value head where there is one.

    Args:
        pair: The models.
        folder: Made where it does not exist.
        tokenizers: For `selector` and `generator`.
        state_dict: The gathered weights of the whole module where they are sharded; read off the module where None.
    """
    for name in MODELS:
        prefix = "shared." if hasattr(pair, "shared") else f"{name}."
        part = None
        if state_dict is not None:
            part = {k.removeprefix(prefix): v for k, v in state_dict.items() if k.startswith(prefix)}
        model: Any = getattr(pair, name)
        model.save_pretrained(folder / name, state_dict=part)
        tokenizers[name].save_pretrained(folder / name)
    if pair.value_head is not None:
        gathered = pair.state_dict() if state_dict is None else state_dict
        prefix = "value_head."
        save_file(
            {k.removeprefix(prefix): v.contiguous() for k, v in gathered.items() if k.startswith(prefix)},
            folder / VALUE_HEAD_NAME,
        )


def read_learnt(pair: SelectorGenerator, state_dict: dict[str, Tensor] | None) -> dict[str, float] | None:
    """Return the arguments of the policy that were learnt, None where none are; `state_dict` as in `save_models`."""
    if pair.score_weights is None:
        return None
    gathered = pair.state_dict() if state_dict is None else state_dict
    return learnt_kwargs(gathered["score_weights.weight"])


def copy_pair(folder: Path, output: Path) -> None:
    """Copy what makes a pair, and its model card, out of a checkpoint."""
    for name in MODELS:
        shutil.copytree(folder / name, output / name, dirs_exist_ok=True)
    for name in (CONFIG_NAME, "README.md"):
        shutil.copy(folder / name, output / name)


def load_models(pair: SelectorGenerator, folder: Path) -> None:
    """Read the weights that `save_models` wrote into the models.

    Raises:
        FileNotFoundError: If a model's folder or its weights are missing.
    """
    if pair.value_head is not None:
        pair.value_head.load_state_dict(load_file(folder / VALUE_HEAD_NAME))
    if pair.score_weights is not None:
        weight = learnt_weight(read_config(folder)["learnt_policy_kwargs"])
        pair.score_weights.load_state_dict({"weight": weight})
    for name in MODELS:
        model: Any = getattr(pair, name)
        source = folder / name
        peft_model, adapter = (model.model, name) if isinstance(model, AdapterView) else (model, "default")
        if isinstance(peft_model, PeftModel):
            set_peft_model_state_dict(peft_model, load_peft_weights(str(source), device="cpu"), adapter)
            continue
        files = sorted(source.glob("*.safetensors"))
        if not files:
            raise FileNotFoundError(
                f"{source} holds no weights (*.safetensors); is {folder} a checkpoint of this run?"
            )
        weights: dict[str, Tensor] = {}
        for file in files:
            weights.update(load_file(file))
        missing, unexpected = model.load_state_dict(weights, strict=False)
        tied = set(getattr(model, "all_tied_weights_keys", None) or ())
        if unexpected or set(missing) - tied:
            raise ValueError(f"{source} does not fit the model: missing {missing[:3]}, unexpected {unexpected[:3]}")
        model.tie_weights()


def merge_adapters(folder: Path, output: Path, dtype: str = "float32") -> None:
    """Write a trained pair as whole models, each adapter added to a copy of its base.

    Args:
        folder: What `DROTrainer` saved.
        output: Where the models go; made where it does not exist.
        dtype: Of the weights that are written.

    Raises:
        FileNotFoundError: If the folder is not one that `DROTrainer` wrote.
        ValueError: If neither model is an adapter, or the output is the folder itself.
    """
    config = read_config(folder)
    if output.resolve() == folder.resolve():
        raise ValueError(f"--output_dir {output} is the pair itself; give another folder")
    adapters = [name for name in MODELS if (folder / name / "adapter_config.json").is_file()]
    if not adapters:
        raise ValueError(f"{folder} holds no adapters: its models are whole already")
    for name in MODELS:
        save_whole(folder / name, output / name, dtype)
    write_config(output, {**config, "shared_base": False})


def save_whole(folder: Path, output: Path, dtype: str | torch.dtype) -> None:
    """Write one model and its tokenizer; an adapter is added to a copy of its base."""
    adapted = (folder / "adapter_config.json").is_file()
    kind = AutoPeftModelForCausalLM if adapted else AutoModelForCausalLM
    model: Any = kind.from_pretrained(folder, dtype=dtype)
    whole = model.merge_and_unload() if adapted else model
    whole.save_pretrained(output)
    AutoTokenizer.from_pretrained(folder).save_pretrained(output)


def write_config(folder: Path, options: Mapping[str, Any]) -> None:
    """Write what it takes to use the pair beside its weights: those of the options that selection depends on."""
    write_json(folder / CONFIG_NAME, {name: options[name] for name in CONFIG_FIELDS})


def read_config(folder: Path) -> dict[str, Any]:
    """Return the selection options that a trained pair was saved with.

    Raises:
        FileNotFoundError: If the folder is not one that `DROTrainer` wrote.
    """
    path = folder / CONFIG_NAME
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; give the output_dir of a DROTrainer run")
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return {**dict.fromkeys(CONFIG_FIELDS), **config}
