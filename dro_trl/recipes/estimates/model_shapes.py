"""The sizes of a language model, from its configuration alone: no weights are read or made."""

from typing import Any

import torch
from peft import PeftConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig

from dro_trl.recipes.estimates.known_models import NAMED, known_sizes
from dro_trl.recipes.estimates.quantities import ModelShape, Tuning


def load_config(name: str) -> PretrainedConfig:
    """Return the configuration of a model.

    Args:
        name: A folder, a JSON file like `config.json`, a name in `NAMED`, or the name of a model on the hub.

    Raises:
        ValueError: If there is none; the message says what can be given instead.
    """
    if (known := known_sizes(name)) is not None:
        return AutoConfig.for_model(known.pop("model_type"), **known)
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"no configuration of {name!r} can be read ({str(error).splitlines()[0]}); give --model_config a folder, "
            f"a config.json, or one of {', '.join(NAMED)}"
        ) from error
    text: PretrainedConfig = config.get_text_config()
    return text


def describe_model(
    config: PretrainedConfig, peft_config: PeftConfig | None, trained: bool, checkpointing: bool
) -> tuple[ModelShape, Tuning, int]:
    """Return a model's sizes, how it is trained, and how many weights are, counted on a model without storage.

    Raises:
        ValueError: If it has experts, which the formulas know nothing of.
    """
    if any(getattr(config, name, None) for name in ("num_experts", "num_local_experts", "n_routed_experts")):
        raise ValueError(f"{config.model_type} is a mixture of experts, which cannot be estimated")
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    layer = model.model.layers[0]
    types = list(getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers)
    norms = [name for name, module in layer.named_modules() if type(module).__name__.endswith("Norm")]
    of_heads = [name for name in norms if name.endswith(("q_norm", "k_norm"))]
    shape = ModelShape(
        hidden=config.hidden_size,
        intermediate=config.intermediate_size,
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
        vocabulary=config.vocab_size,
        parameters=parameters,
        layer_norms=len(norms) - len(of_heads),
        head_norms=bool(of_heads),
        mask_kinds=len(set(types)),
        windowed_layers=types.count("sliding_attention"),
        window=getattr(config, "sliding_window", None) or 0,
    )
    if not trained:
        return shape, Tuning(trained=False), 0
    if peft_config is None:
        return shape, Tuning(checkpointing=checkpointing), parameters
    adapted = get_peft_model(model, peft_config)
    names = [name for name, parameter in adapted.named_parameters() if parameter.requires_grad]
    count = sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad)
    layers = [int(name.split(".layers.")[1].split(".")[0]) for name in names if ".layers." in name]
    tuning = Tuning(
        adapted=frozenset(name.split(".lora_")[0].rpartition(".")[2] for name in names if ".lora_" in name),
        rank=getattr(peft_config, "r", 0),
        first_layer=min(layers, default=0),
        checkpointing=checkpointing,
    )
    return shape, tuning, count
