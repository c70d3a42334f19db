"""Saving the two models, each in a folder of its own that `from_pretrained` loads, and reading them back."""

import json
from pathlib import Path
from typing import Any

from peft import PeftModel, set_peft_model_state_dict
from peft.utils import load_peft_weights
from safetensors.torch import load_file
from torch import Tensor, nn

from dro_trl.modeling import SelectorGenerator
from dro_trl.prompts import Tokenizer

CONFIG_NAME = "dro_config.json"
MODELS = ("selector", "generator")


def save_models(
    pair: SelectorGenerator, folder: Path, tokenizers: dict[str, Tokenizer], state_dict: dict[str, Tensor] | None
) -> None:
    """Write `selector/` and `generator/` under `folder`.

    Args:
        pair: The models.
        folder: Made where it does not exist.
        tokenizers: For `selector` and `generator`.
        state_dict: The gathered weights of the whole module where they are sharded; read off the module where None.
    """
    for name in MODELS:
        prefix = f"{name}."
        part = None
        if state_dict is not None:
            part = {k.removeprefix(prefix): v for k, v in state_dict.items() if k.startswith(prefix)}
        model: Any = getattr(pair, name)
        model.save_pretrained(folder / name, state_dict=part)
        tokenizers[name].save_pretrained(folder / name)


def load_models(pair: SelectorGenerator, folder: Path) -> None:
    """Read the weights that `save_models` wrote into the models.

    Raises:
        FileNotFoundError: If a model's folder or its weights are missing.
    """
    for name in MODELS:
        model: nn.Module = getattr(pair, name)
        source = folder / name
        if isinstance(model, PeftModel):
            set_peft_model_state_dict(model, load_peft_weights(str(source), device="cpu"))
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
        model.tie_weights()  # type: ignore[operator]


def read_config(folder: Path) -> dict[str, Any]:
    """Return the selection options that a trained pair was saved with.

    Raises:
        FileNotFoundError: If the folder is not one that `DROTrainer` wrote.
    """
    path = folder / CONFIG_NAME
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; give the output_dir of a DROTrainer run")
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return config
