"""The models and tokenizers that a run starts from: read, frozen or given adapters, and put together."""

import copy
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from torch import nn
from transformers import AutoTokenizer, PreTrainedModel

from dro_trl.lm.garbage import without_collection
from dro_trl.lm.tokens import Tokenizer
from dro_trl.lm.turns import (
    Turns,
    embedding_rows,
    keep_turns,
    read_turns,
    turns_before,
)
from dro_trl.models.adapters import ADAPTERS, AdapterView
from dro_trl.models.causal_lm import check_causal
from dro_trl.models.files import check_model_files, check_tokenizer_files, one_line, same_tokenizer_files
from dro_trl.models.quantised import is_quantised, keep_gradients
from dro_trl.models.reading import base_of, fit_one_base, read_base, read_model, read_shared

logger = logging.getLogger(__name__)


def load_model(model: str | PreTrainedModel, init_kwargs: Any = None) -> PreTrainedModel:
    """Return a model, loaded where a name or folder is given: in float32 unless `init_kwargs` say otherwise.

    A folder is named by its absolute path, so that a saved adapter finds it again from anywhere on this machine.
    An adapter comes as a `PeftModel` on its base.

    Raises:
        OSError: If a file is missing, the base of an adapter included.
        ValueError: If it is not a causal language model, a file is damaged, or its tensors are not those of the model.
    """
    if isinstance(model, str) and Path(model).is_dir():
        check_model_files(Path(model))
    check_causal(model, init_kwargs)
    if not isinstance(model, str):
        return model
    if Path(model).is_dir():
        model = str(Path(model).resolve())
    loaded: PreTrainedModel = read_model(model, **{"dtype": torch.float32, **(init_kwargs or {})})
    return loaded


@dataclass
class Start:
    """What one of the two models starts from."""

    model: Any
    """A causal LM, a PEFT model whose adapter goes on, or an `AdapterView` of one that is shared."""
    name: str
    """Its name or absolute folder, empty for a model made in memory."""
    is_copy: bool = False
    """Whether it is a generator without a start of its own, whose tokenizer is the selector's as well."""
    turns: Turns | None = None
    """What it read around texts, as part of the finished pair that it is of."""

    def copy(self, init_kwargs: Any = None) -> Any:
        """Return a second model with the same weights; `init_kwargs` are those that it was loaded with.

        A model that was loaded under ZeRO-3 is in parts on several processes, and has to be loaded again.
        """
        model = self.model.model if isinstance(self.model, AdapterView) else self.model
        if any(hasattr(parameter, "ds_id") for parameter in model.parameters()):
            return load_model(self.name, init_kwargs)
        return copy.deepcopy(model)


def load_shared(
    folders: Mapping[str, str], device: str | torch.device | None = None, init_kwargs: Any = None
) -> dict[str, AdapterView]:
    """Return the base that two adapters were trained on, with both, as a view of each.

    Args:
        folders: Those of the adapters, for `selector` and `generator`.
        device: Where the model goes; where it is loaded to where None.
        init_kwargs: For the base, as in `load_model`.

    Raises:
        ValueError: If their bases differ.
    """
    bases = {name: base_of(folder) for name, folder in folders.items()}
    if bases["selector"] != bases["generator"]:
        raise ValueError(
            f"{folders['selector']} is an adapter of {bases['selector']} and {folders['generator']} one of "
            f"{bases['generator']}, but shared_base is true; they need one base"
        )
    kwargs = {"dtype": torch.float32, **(init_kwargs or {})}
    base = read_base(folders["selector"], kwargs)
    return read_shared(base if device is None else base.to(device), folders)


def load_for_use(sources: Mapping[str, str], device: torch.device, init_kwargs: Any, shared: bool) -> dict[str, Any]:
    """Return models that are not trained any more, what they have in common loaded once.

    That is one model where both are the same, and one base with two adapters wherever these fit on one.

    Args:
        sources: Their folders, or names on a hub, by `selector` and `generator`.
        device: Where they go.
        init_kwargs: As in `load_model`.
        shared: Whether they were trained on one base.

    Raises:
        OSError: As in `load_model`.
        ValueError: As in `load_model`, or if they were trained on one base and their adapters name two.
    """
    if len(sources) == len(ADAPTERS) and (shared or fit_one_base(list(sources.values()))):
        return dict(load_shared(sources, device, init_kwargs))
    different = dict.fromkeys(sources.values())
    loaded = {source: load_model(source, init_kwargs).to(device) for source in different}  # type: ignore[arg-type]
    return {role: loaded[source] for role, source in sources.items()}


def prepare_model(model: PreTrainedModel, train: bool, peft_config: PeftConfig | None) -> nn.Module:
    """Freeze a model that is not trained, and put an adapter on one that is where a PEFT config is given.

    An adapter that the model has already goes on.
    """
    if not train:
        return model.requires_grad_(False)
    if isinstance(model, PeftModel):
        model.set_adapter(model.active_adapter)  # It was loaded frozen.
        return model
    if peft_config is None:
        return model
    _warn_of_nameless_base(model)
    try:
        return get_peft_model(keep_gradients(model), copy.deepcopy(peft_config))
    except ValueError as error:  # Its layers are none of the model's, or its sizes are none.
        raise ValueError(f"peft_config does not fit {model.name_or_path or 'the model'}: {error}") from error


def _warn_of_nameless_base(model: PreTrainedModel) -> None:
    if not model.name_or_path:
        logger.warning(
            "the adapter of a model made in memory cannot be loaded from its folder alone, since it names no base "
            "model; save the model first, and give its folder"
        )


def load_tokenizer(
    source: str | Tokenizer, option: str = "processing_class", trust_remote_code: bool = False
) -> Tokenizer:
    """Return a tokenizer, loaded where a name or folder is given, with a padding token.

    Args:
        source: The tokenizer, or where it is.
        option: What to set where there is none, for the error.
        trust_remote_code: Whether to run code that comes with it.

    Raises:
        FileNotFoundError: If the folder holds none.
        ValueError: If the source is empty, as the name of a model made in memory is, a file is damaged, or there is no
            padding token.
    """
    if source == "":
        raise ValueError(
            f"{option} is not set, and the model, made in memory, has no folder with a tokenizer; pass one"
        )
    tokenizer = _read_tokenizer(source, trust_remote_code) if isinstance(source, str) else source
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise ValueError(
                f"{option}: the tokenizer of {source if isinstance(source, str) else tokenizer.name_or_path!r} has "
                "neither a pad_token nor an eos_token; give it one of them"
            )
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def saved_tokenizers(
    folder: Path, turns: Mapping[str, Any] | None, trust_remote_code: bool = False
) -> dict[str, Tokenizer]:
    """Return the tokenizers that were saved with a pair, whose models read around texts what they read in training.

    They are one object where the models have one tokenizer and read the same.

    Args:
        folder: The pair's.
        turns: What its `dro_config.json` says of them.
        trust_remote_code: As in `load_tokenizer`.

    Raises:
        ValueError: If `turns` are none.
    """
    found: dict[str, Tokenizer] = {}
    one = turns is None or turns.get("selector") == turns.get("generator")
    for name in ADAPTERS:
        if found and one and same_tokenizer_files(*(folder / role for role in ADAPTERS)):
            found[name] = found[ADAPTERS[0]]  # Which takes seconds, and hundreds of MB, where a vocabulary is large.
            break
        tokenizer = load_tokenizer(str(folder / name), trust_remote_code=trust_remote_code)
        if turns is None:
            kept = turns_before(tokenizer)
        else:
            kept = read_turns(turns.get(name), f"{folder / 'dro_config.json'}: turns.{name}")
        found[name] = keep_turns(tokenizer, kept)
    return found


def _read_tokenizer(source: str, trust_remote_code: bool) -> Tokenizer:
    if Path(source).is_dir():
        check_tokenizer_files(Path(source))
    with one_line(source, "a tokenizer"), without_collection():
        return AutoTokenizer.from_pretrained(source, trust_remote_code=trust_remote_code)


def check_loaded(model: Any, tokenizer: Tokenizer, source: str) -> None:
    """Refuse a model that does not run, and a tokenizer that writes texts with tokens it has no embeddings for.

    Special tokens may be beyond them, since none is written: that of Gemma 3 for images is, in its models of text.

    Raises:
        ValueError: If there are others, or the model's config says what fails only once it runs.
    """
    rows = embedding_rows(model)
    added = [str(token) for at, token in tokenizer.added_tokens_decoder.items() if at >= rows and not token.special]
    if tokenizer.vocab_size > rows or added:
        raise ValueError(
            f"{source}: the tokenizer has {len(tokenizer)} tokens and the model embeddings for {rows} alone; it is "
            "another model's: save or copy it again"
        )
    if is_quantised(model):
        return  # Its first pass would pack its layers for good (`keep_gradients`).
    with torch.no_grad(), one_line(source, "a causal LM", "run as"):
        model(input_ids=torch.zeros((1, 2), dtype=torch.long, device=model.device))


def is_switched_off_exactly(model: Any) -> bool:
    """Whether a model without its adapter is what the adapter starts from.

    Of one that goes on it is not, which is a matter of the start; nor where biases are trained, the base is changed,
    or the adapter does not start at nothing.
    """
    if isinstance(model, AdapterView):
        return True
    return starts_at_nothing(model.peft_config[model.active_adapter] if isinstance(model, PeftModel) else None)


def starts_at_nothing(config: PeftConfig | None) -> bool:
    """Whether a new adapter leaves a model what it is, so that the model without it is what it starts from."""
    if not isinstance(config, LoraConfig):
        return False
    return config.bias == "none" and config.init_lora_weights in (True, "gaussian", "orthogonal")
