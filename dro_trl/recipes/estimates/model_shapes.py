"""The sizes of a language model, from its configuration alone: no weights are read or made."""

from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig

from dro_trl.recipes.estimates.quantities import ModelShape, Tuning


def _shape(kind: str, hidden: int, intermediate: int, layers: int, heads: int, kv: int, vocabulary: int, **rest: Any):  # type: ignore[no-untyped-def]
    return {
        "model_type": kind,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "vocab_size": vocabulary,
        **rest,
    }


NAMED: dict[str, dict[str, Any]] = {
    "gemma-3-270m": _shape(
        "gemma3_text", 640, 2048, 18, 4, 1, 262_144, head_dim=256, sliding_window=512, tie_word_embeddings=True
    ),
    "qwen2.5-0.5b": _shape("qwen2", 896, 4864, 24, 14, 2, 151_936, tie_word_embeddings=True),
    "qwen2.5-1.5b": _shape("qwen2", 1536, 8960, 28, 12, 2, 151_936, tie_word_embeddings=True),
    "qwen2.5-3b": _shape("qwen2", 2048, 11_008, 36, 16, 2, 151_936, tie_word_embeddings=True),
    "qwen2.5-7b": _shape("qwen2", 3584, 18_944, 28, 28, 4, 152_064, tie_word_embeddings=False),
    "qwen2.5-14b": _shape("qwen2", 5120, 13_824, 48, 40, 8, 152_064, tie_word_embeddings=False),
    "qwen2.5-32b": _shape("qwen2", 5120, 27_648, 64, 40, 8, 152_064, tie_word_embeddings=False),
    "qwen2.5-72b": _shape("qwen2", 8192, 29_568, 80, 64, 8, 152_064, tie_word_embeddings=False),
    "llama-3.2-1b": _shape("llama", 2048, 8192, 16, 32, 8, 128_256, head_dim=64, tie_word_embeddings=True),
    "llama-3.1-8b": _shape("llama", 4096, 14_336, 32, 32, 8, 128_256, tie_word_embeddings=False),
    "llama-3.1-70b": _shape("llama", 8192, 28_672, 80, 64, 8, 128_256, tie_word_embeddings=False),
}
"""Models whose sizes are known without their files; `-instruct` and the like behind the name make no difference."""


def load_config(name: str) -> PretrainedConfig:
    """Return the configuration of a model.

    Args:
        name: A folder, a JSON file like `config.json`, a name in `NAMED`, or the name of a model on the hub.

    Raises:
        ValueError: If there is none; the message says what can be given instead.
    """
    path, last = Path(name), name.rstrip("/").rpartition("/")[2].lower()
    known = next((key for key in NAMED if last == key or last.startswith(f"{key}-")), None)
    if known and not path.exists():
        sizes = dict(NAMED[known])
        return AutoConfig.for_model(sizes.pop("model_type"), **sizes)
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
