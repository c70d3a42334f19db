"""Telling a causal language model from any other by its configuration, before its weights are read."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peft.utils import CONFIG_NAME as ADAPTER_CONFIG
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel
from transformers.models.auto import modeling_auto as auto
from transformers.utils import CONFIG_NAME

from dro_trl.files.writing import load_object
from dro_trl.models.files import COPY_AGAIN
from dro_trl.models.names import located

_WHERE = ("revision", "token", "cache_dir", "subfolder", "local_files_only", "trust_remote_code", "gguf_file")
"""Options of `from_pretrained` that say which configuration is meant."""
_BOTH_WAYS = {
    "is_causal": (False,),
    "causal": (False,),
    "use_bidirectional_attention": (True, "all"),
    "attn_type": ("bi",),
}
"""Values in a configuration with which a token reads those that follow it."""
_ENCODERS = {*auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES, "bert-generation"}
"""Types that read both ways unless `is_decoder` is set: BERT and those like it."""
_OTHER_TASKS = ("SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS", "SEQ_2_SEQ_LM")


def check_causal(model: str | PreTrainedModel, init_kwargs: Mapping[str, Any] | None = None) -> None:
    """Refuse what is not a causal language model: its head would be random, or it reads what it is to predict.

    Args:
        model: A name, a folder, an adapter's folder, or a model in memory.
        init_kwargs: What `from_pretrained` is given for it.

    Raises:
        ValueError: Names the model, the architecture found and what is wanted.
    """
    fault = _fault_of_files(model, init_kwargs or {}) if isinstance(model, str) else _fault_in_memory(model)
    if fault:
        source = model if isinstance(model, str) else model.name_or_path or "the model in memory"
        raise ValueError(
            f"{source}: {fault}; the selector and the generator have to be causal language models (…ForCausalLM)"
        )


def _fault_in_memory(model: Any) -> str | None:
    model = model.get_base_model() if hasattr(model, "get_base_model") else model
    has_head = model.can_generate() and model.get_output_embeddings() is not None
    return _fault(model.config, type(model).__name__, has_head)


def _fault_of_files(model: str, init_kwargs: Mapping[str, Any]) -> str | None:
    given = {name: value for name, value in init_kwargs.items() if name in _WHERE}
    adapter_file = Path(model) / ADAPTER_CONFIG
    if adapter_file.is_file() and not (Path(model) / CONFIG_NAME).is_file():
        adapter = load_object(adapter_file, COPY_AGAIN)
        if adapter.get("task_type") in _OTHER_TASKS:
            return f"it is an adapter for another task (task_type {adapter['task_type']})"
        model = located(str(adapter.get("base_model_name_or_path")), Path(model))
        given["revision"] = adapter.get("revision")
    try:
        config = AutoConfig.from_pretrained(model, **given)
    except OSError:  # Where nothing can be read, loading says so.
        return None
    except ValueError as error:  # A type of model that is not known, which transformers explains in paragraphs.
        return str(error).splitlines()[0].rstrip(".")
    except Exception:  # Likewise where a field has a value that the libraries refuse, each with an error of its own.
        return None
    architecture = next(iter(config.architectures or ()), None)
    own_code = "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {})
    known = type(config) in auto.MODEL_FOR_CAUSAL_LM_MAPPING
    fault = _fault(config, architecture, own_code or architecture is None or _writes(config, architecture, known))
    if not fault and not (known or own_code):
        fault = f"transformers has no causal language model of the type {config.model_type} ({architecture})"
    return fault


def _writes(config: PretrainedConfig, architecture: str, known: bool) -> bool:
    """Whether a checkpoint of this architecture holds the head that texts are written with."""
    found: Any = auto.MODEL_FOR_CAUSAL_LM_MAPPING[type(config)] if known else ()
    names = {each.__name__ for each in (found if isinstance(found, (tuple, list)) else [found])}
    names.add(str(auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.get(config.model_type)))  # One head for both.
    return architecture in names or architecture.endswith(("ForCausalLM", "LMHeadModel"))


def _fault(config: PretrainedConfig, architecture: str | None, has_head: bool) -> str | None:
    """Return what is wrong with a model, None where it writes texts from left to right."""
    name = f"{architecture} ({config.model_type})"
    if config.is_encoder_decoder:
        return f"{name} is an encoder with a decoder"
    if not has_head:
        return f"{name} has no head that predicts the next token, and a new one would be random"
    text = config.get_text_config()
    both_ways = {
        option: value for option in _BOTH_WAYS if (value := getattr(text, option, None)) in _BOTH_WAYS[option]
    }
    if text.model_type in _ENCODERS and getattr(text, "is_decoder", None) is False:
        both_ways["is_decoder"] = False
    for option, value in both_ways.items():
        return f"{name} reads both ways, so that a token sees those it should predict ({option}: {value})"
    return None
