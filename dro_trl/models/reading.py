"""Models as they were saved: every tensor in its place, or an error that names those that are not."""

import contextlib
import logging
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from peft.utils import load_peft_weights
from torch import Tensor
from transformers import AutoModelForCausalLM
from transformers.utils.peft_utils import find_adapter_config_file

from dro_trl.files.writing import load_object
from dro_trl.models.adapters import ADAPTERS, AdapterView
from dro_trl.models.files import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    COPY_AGAIN,
    INDEX,
    WEIGHTS,
    check_model_files,
    is_adapter,
    named,
    one_line,
    tensor_names,
)
from dro_trl.models.names import located
from dro_trl.models.quantised import keep_gradients

OF_THE_HUB = ("revision", "token", "cache_dir", "local_files_only")
"""Arguments of `from_pretrained` that say where a model is, not how its base is to be loaded."""
IN_LORA = ("r", "lora_alpha", "target_modules")
"""What a LoRA adapter's config must say: PEFT would put a default in place of what is lost."""
OF_ONE_LORA = {
    *("base_model_name_or_path", "revision", "peft_version", "task_type", "auto_mapping", "inference_mode"),
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "rank_pattern", "alpha_pattern"),
    *("r", "lora_alpha", "lora_dropout", "use_rslora", "fan_in_fan_out", "init_lora_weights", "runtime_config"),
}
"""What the configs of LoRA adapters on one base may differ in: where these are from, where they are, how large."""
KEEP_THE_BASE = (True, False, "gaussian", "orthogonal")
"""Starts of LoRA's matrices that leave the base as it is."""


def read_model(source: str, **kwargs: Any) -> Any:
    """Return a causal LM, or a `PeftModel` of one where the source is an adapter.

    Args:
        source: A folder, or a name on the hub.
        kwargs: Those of `from_pretrained`; an adapter's base is loaded with them.

    Raises:
        OSError: If a file is missing, the base of an adapter included.
        ValueError: If a file is damaged, or its tensors are not those of the model.
    """
    if not is_adapter_source(source, kwargs):
        return _read_whole(source, kwargs)
    where = {name: kwargs[name] for name in OF_THE_HUB if name in kwargs}
    model: Any = put_adapter_on(read_base(source, kwargs), source, **where)
    model.name_or_path = source  # Else the base's, from which a copy would be made without the adapter.
    return model


def is_adapter_source(source: str, kwargs: Mapping[str, Any] | None = None) -> bool:
    """Whether a folder or a name on the hub is an adapter's; the files of a folder are checked.

    Raises:
        OSError: If the source is a path where nothing is, or files are missing.
        ValueError: If files are damaged, or those of an adapter and of a whole model are both there.
    """
    folder = Path(source)
    if folder.is_dir() or folder.is_absolute() or source.startswith(".") or source.count("/") > 1:
        check_model_files(folder)
        return is_adapter(folder)
    where = {name: kwargs[name] for name in OF_THE_HUB if kwargs and name in kwargs}
    with one_line(source, "a model"):
        return find_adapter_config_file(source, **where) is not None


def _adapter_config(source: str, where: Mapping[str, Any]) -> PeftConfig:
    with one_line(Path(source) / ADAPTER_CONFIG, "the config of an adapter"):
        config: PeftConfig = PeftConfig.from_pretrained(source, **where)
    if not (path := Path(source) / ADAPTER_CONFIG).is_file():
        return config
    said = load_object(path, COPY_AGAIN)
    if unknown := [name for name, value in said.items() if value and not hasattr(config, name)]:
        raise ValueError(f"{path} sets {named(unknown)}, which this version of peft does not know; upgrade peft")
    if said.get("peft_type") == "LORA" and (lost := [name for name in IN_LORA if name not in said]):
        raise ValueError(f"{path} lacks {named(lost)}; save or copy it again")
    return config


def base_of(source: str, config: PeftConfig | None = None) -> str:
    """Return the name or folder of the model that an adapter was trained on.

    Raises:
        ValueError: If its config names none.
    """
    name = (config or _adapter_config(source, {})).base_model_name_or_path
    if not name or not isinstance(name, str):
        raise ValueError(
            f"{Path(source) / ADAPTER_CONFIG} names no base model (base_model_name_or_path: {name!r}), as the adapter "
            "of a model made in memory does; write there where the base is"
        )
    return located(name, Path(source))


def whole_name(name: str) -> str:
    """Return the name of an adapter's base, and that of any other model as it is."""
    adapted = is_adapter(Path(name)) if Path(name).is_dir() else is_adapter_source(name)
    return base_of(name) if adapted else name


def read_base(adapter: str, kwargs: Mapping[str, Any]) -> Any:
    """Return the whole model that an adapter was trained on, of the revision that it names.

    Args:
        adapter: Folder of the adapter, or its name on the hub.
        kwargs: Those of `from_pretrained`; where they say a revision, it is the adapter's.

    Raises:
        OSError: If it is not there.
        ValueError: If it is another adapter, or damaged.
    """
    config = _adapter_config(adapter, {name: kwargs[name] for name in OF_THE_HUB if name in kwargs})
    name = base_of(adapter, config)
    kwargs = {**kwargs, "revision": config.revision or "main"}
    where = f"{Path(adapter) / ADAPTER_CONFIG} names the base {name}"
    if Path(name).is_absolute() and not Path(name).is_dir():
        raise FileNotFoundError(f"{where}, which does not exist; put it back, or write there where it is now")
    try:
        nested = is_adapter_source(name, kwargs)
        base = None if nested else _read_whole(name, kwargs)
    except OSError as error:
        raise OSError(f"{where}: {error}") from error
    if nested:
        raise ValueError(f"{where}, which is an adapter itself; merge that one first (dro-trl merge)")
    return base


def fit_one_base(sources: Collection[str]) -> bool:
    """Whether folders hold adapters that can lie side by side on one base, and be switched without changing it.

    They can where each is plain LoRA on the same base: matrices beside the base's own, and nothing in place of any.
    Whatever else an adapter's config asks for takes a base of its own, be it modules or tokens that were trained whole
    (`modules_to_save`, `trainable_token_indices`), an embedding saved with it, biases, DoRA, replicated layers, single
    parameters, a start that changes the base (PiSSA and the like), or what a later PEFT may add.
    """
    if not all(is_adapter(Path(source)) for source in sources):
        return False
    configs = [_adapter_config(source, {}) for source in sources]
    bases = {
        (base_of(source, config), config.revision or "main") for source, config in zip(sources, configs, strict=True)
    }
    return len(bases) == 1 and all(map(_is_plain_lora, sources, configs))


def _is_plain_lora(source: str, config: PeftConfig) -> bool:
    weights = Path(source) / ADAPTER_WEIGHTS[0]
    if type(config) is not LoraConfig or config.init_lora_weights not in KEEP_THE_BASE or not weights.is_file():
        return False
    usual, own = LoraConfig().to_dict(), config.to_dict()
    if any(value and value != usual.get(name) for name, value in own.items() if name not in OF_ONE_LORA):
        return False
    return all(any(part.startswith("lora_") for part in name.split(".")) for name in tensor_names(weights))


def _read_whole(source: str, kwargs: Mapping[str, Any]) -> Any:
    # Tensors of another shape are reported as those that are missing are, in place of an error without their names.
    options = {**kwargs, "ignore_mismatched_sizes": True, "output_loading_info": True}
    loaded: Any
    with one_line(source, "a causal language model"), _without_report():
        loaded = AutoModelForCausalLM.from_pretrained(source, **options)
    model, info = loaded
    mismatched = [str(key[0]) for key in info["mismatched_keys"]]
    refuse_difference(weights_path(source), info["missing_keys"], info["unexpected_keys"], mismatched)
    check_finite(weights_path(source), model.named_parameters())
    return model


@contextlib.contextmanager
def _without_report() -> Iterator[None]:
    """Leave out the tables of transformers and PEFT on tensors that do not fit: an error names them."""
    logger = logging.getLogger("transformers.modeling_utils")

    def is_other(record: logging.LogRecord) -> bool:
        return "LOAD REPORT" not in record.getMessage()

    logger.addFilter(is_other)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Some weights of|Found missing adapter keys")
            yield
    finally:
        logger.removeFilter(is_other)


def put_adapter_on(base: Any, source: str, name: str = "default", **where: Any) -> PeftModel:
    """Return a model with an adapter that was saved, on a base that was loaded; arguments as in `read_adapter`."""
    with one_line(source, f"an adapter of {getattr(base, 'name_or_path', 'its base')}"), _without_report():
        # Sizes are compared in `read_adapter`, which names them.
        model: PeftModel = PeftModel.from_pretrained(
            base, source, adapter_name=name, ignore_mismatched_sizes=True, **where
        )
    _locate_base(model, source, name)
    read_adapter(model, source, name, **where)
    if getattr(model.peft_config[name], "use_dora", False):
        keep_gradients(model)  # DoRA reads the base's weights, and would take packed ones for what they are not.
    return model


def read_shared(base: Any, folders: Mapping[str, str]) -> dict[str, AdapterView]:
    """Return a model with the two adapters that were saved in `folders`, as a view of each."""
    first, second = ADAPTERS
    model: Any = put_adapter_on(base, folders[first], first)
    with one_line(folders[second], f"an adapter of {getattr(base, 'name_or_path', 'its base')}"), _without_report():
        model.load_adapter(folders[second], adapter_name=second, ignore_mismatched_sizes=True)
    _locate_base(model, folders[second], second)
    read_adapter(model, folders[second], second)
    return {name: AdapterView(model, name) for name in ADAPTERS}


def _locate_base(model: PeftModel, source: str, name: str) -> None:
    """Say in an adapter's config where its base is: trained further, it is saved elsewhere."""
    config = model.peft_config[name]
    if config.base_model_name_or_path:
        config.base_model_name_or_path = located(config.base_model_name_or_path, Path(source))


def read_adapter(model: PeftModel, source: str, name: str = "default", **where: Any) -> None:
    """Read the weights of an adapter into a model that has one of the same kind.

    Args:
        model: The model.
        source: Folder of the adapter, or its name on the hub.
        name: Of the adapter in the model.
        where: For `hf_hub_download`.

    Raises:
        ValueError: If a tensor is missing, has no place in the model or another shape, or is not finite.
    """
    file = weights_path(source)
    with one_line(file, "an adapter"):
        weights = load_peft_weights(source, device="cpu", **where)
        expected = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    mismatched = [key for key in expected.keys() & weights if expected[key].shape != weights[key].shape]
    refuse_difference(file, expected.keys() - weights, (), mismatched)
    check_finite(file, weights.items())
    with one_line(file, "an adapter"):
        result: Any = set_peft_model_state_dict(model, weights, name)
    if not model.peft_config[name].is_prompt_learning:  # Whose tensors PEFT reads by itself.
        refuse_difference(file, (), result.unexpected_keys, ())


def read_into(model: Any, folder: Path, adapter: str = "default") -> None:
    """Read what was saved of a model into it, or into one of the same kind: its adapter alone where it has one.

    Raises:
        OSError: If a file is missing.
        ValueError: If the tensors are not those of the model.
    """
    if isinstance(model, PeftModel):
        check_model_files(folder)
        read_adapter(model, str(folder), adapter)
    else:
        read_weights(model, folder)


def read_weights(model: Any, folder: Path) -> None:
    """Read the weights of a whole model, as it was saved, into one of the same kind.

    Raises:
        OSError: If a file is missing.
        ValueError: If the folder holds another model, or an adapter.
    """
    if is_adapter_source(str(folder)):
        raise ValueError(f"{folder} holds an adapter, where a whole model is wanted")
    saved = _read_whole(str(folder), {"dtype": model.dtype}).state_dict()
    own = model.state_dict()
    mismatched = [key for key in own.keys() & saved if own[key].shape != saved[key].shape]
    refuse_difference(weights_path(str(folder)), own.keys() - saved, saved.keys() - own, mismatched)
    if getattr(model, "hf_quantizer", None) is None:
        model.load_state_dict(saved)
    elif differing := [key for key, weight in own.items() if not torch.equal(weight.cpu(), saved[key].cpu())]:
        raise ValueError(  # Packed weights cannot be loaded in place; they are not trained, and have to be the same.
            f"{weights_path(str(folder))} holds other quantised weights than the run started from: {named(differing)}"
        )


def weights_path(source: str) -> Path | str:
    """Return the file that a folder's weights are in, or the index of such files; the source itself on the hub."""
    paths = [Path(source) / name for name in (*ADAPTER_WEIGHTS, WEIGHTS, INDEX)]
    return next((path for path in paths if path.is_file()), source)


def refuse_difference(
    file: Path | str, missing: Collection[str], unexpected: Collection[str], mismatched: Collection[str]
) -> None:
    """Raise a ValueError that names the tensors in which a file differs from its model, where any does."""
    found = {"missing": missing, "without a place in the model": unexpected, "of another shape": mismatched}
    said = "; ".join(f"{how}: {named(names)}" for how, names in found.items() if names)
    if said:
        raise ValueError(
            f"{file} does not fit the model: {said}. It is damaged, or another model's; save or copy it again"
        )


def check_finite(file: Path | str, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Raise a ValueError that names the tensors with a NaN or an infinity in them, where any has."""
    kinds = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
    faulty = [
        name
        for name, tensor in tensors
        if tensor.dtype in kinds and tensor.numel() and not tensor.is_meta and not _is_finite(tensor.detach())
    ]
    if faulty:
        raise ValueError(f"{file} holds NaN or infinite weights: {named(faulty)}; take an earlier checkpoint")


def _is_finite(tensor: Tensor) -> bool:
    return bool(torch.stack(torch.aminmax(tensor)).isfinite().all())  # Reads once, without a mask of its size.
