"""Adapters made part of their base models, without a change to what is computed."""

import logging
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from dro_trl.lm.turns import embedding_rows
from dro_trl.models.files import GENERATION_CONFIG, check_tokenizer_files, one_line
from dro_trl.models.quantised import is_quantised, keep_gradients
from dro_trl.models.reading import put_adapter_on, read_base, read_model

logger = logging.getLogger(__name__)

TOLERANCES = {torch.float16: 0.05, torch.bfloat16: 0.2}
"""By how much logits may differ, as a share of the largest: merged weights are rounded once more."""
TOLERANCE = 1e-4
"""Likewise, of any other format."""
WRITTEN_TOLERANCE = 1e-5
"""Likewise, between what was merged and what was read back."""


def save_whole(folder: Path, output: Path, dtype: str | torch.dtype, trust_remote_code: bool = False) -> None:
    """Write one model and its tokenizer; an adapter is added to a copy of its base, quantised weights are unpacked.

    Logits of a few random tokens are compared before and after, and again once the result was read back.

    Args:
        folder: Of the model or adapter.
        output: An empty folder.
        dtype: Of the weights that are written.
        trust_remote_code: Whether to run code that comes with the model.

    Raises:
        OSError: If a file is missing.
        ValueError: If no whole model computes what this one does, which is found out before anything is written.
    """
    check_tokenizer_files(folder)
    loading: dict[str, Any] = {"dtype": dtype, **({"trust_remote_code": True} if trust_remote_code else {})}
    model = keep_gradients(read_model(str(folder), **loading)).eval()  # Packed for speed, weights are rounded.
    input_ids = _some_tokens(model)
    expected = _logits(model, input_ids)
    quantised = is_quantised(model)
    with one_line(folder, "a whole model", "merged into"):
        whole = _merged(model, folder, loading)
    merged = _logits(whole, input_ids)
    _check(folder, expected, merged, TOLERANCES.get(whole.dtype, TOLERANCE), "merging")
    if (folder / GENERATION_CONFIG).is_file():  # An adapter's says where its answers end, and its base's need not.
        whole.generation_config = GenerationConfig.from_pretrained(folder)
    with one_line(output, "a whole model", "written as"):
        (_unquantised(whole) if quantised else whole).save_pretrained(output)
        AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code).save_pretrained(output)
    del model, whole  # Only one model at a time is in memory.
    _check(output, merged, _logits(read_model(str(output), **loading).eval(), input_ids), WRITTEN_TOLERANCE, "saving")


def _some_tokens(model: Any) -> Tensor:
    """Return (1, L) random tokens, and with them those that an adapter trains alone."""
    rows = embedding_rows(model)
    drawn = torch.randint(rows, (16,), generator=torch.Generator().manual_seed(0)).tolist()
    adapters = model.peft_config.values() if isinstance(model, PeftModel) else ()
    for adapter in adapters:
        trained = getattr(adapter, "trainable_token_indices", None) or []
        for indices in trained.values() if isinstance(trained, dict) else [trained]:
            drawn += indices[:16]
    return torch.tensor([drawn])


@torch.no_grad()
def _logits(model: Any, input_ids: Tensor) -> Tensor:
    logits: Tensor = model(input_ids=input_ids.to(model.device)).logits
    return logits.float().cpu()


def _check(folder: Path, before: Tensor, after: Tensor, tolerance: float, what: str) -> None:
    difference, largest = float((after - before).abs().max()), float(before.abs().max())
    if not difference <= tolerance * max(1.0, largest):
        raise ValueError(
            f"{folder}: {what} would change what the model computes (logits of up to {largest:.3g} by "
            f"{difference:.3g}), so that there is no whole model of it; use it as it is"
        )


def _merged(model: Any, folder: Path, loading: dict[str, Any]) -> Any:
    """Return a model without adapters or packed weights; `model` is used up."""
    adapted = isinstance(model, PeftModel)
    base = model.get_base_model() if adapted else model
    if is_quantised(base):
        logger.warning(
            f"{folder}: the weights of its base are quantised, and are written unpacked, as {loading['dtype']}"
        )
        if adapted:  # Merged into packed weights, an update would be rounded away.
            base = read_base(str(folder), loading).dequantize(model.dtype)
            model = put_adapter_on(base, str(folder))
        else:
            model = base.dequantize(model.dtype)
    if adapted:
        if not hasattr(model.base_model, "merge_and_unload"):
            raise ValueError(
                f"an adapter of the kind {model.active_peft_config.peft_type.value} is no part of weights"
            )
        tied = model.config.get_text_config().tie_word_embeddings
        _untie(model)
        model = model.merge_and_unload(safe_merge=True)
        if tied:
            _tie_what_is_equal(model)
    return model


def _untie(model: nn.Module) -> None:
    """Give each place its own copy of a weight, lest what is added in one is added in others."""
    seen: set[nn.Parameter] = set()
    for module in list(model.modules()):
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter in seen:
                setattr(module, name, nn.Parameter(parameter.detach().clone(), parameter.requires_grad))
            seen.add(parameter)


def _tie_what_is_equal(model: Any) -> None:
    """Tie the embeddings and the output layer again, or say in the config that they differ now."""
    tied = torch.equal(model.get_input_embeddings().weight, model.get_output_embeddings().weight)
    for config in (model.config, model.config.get_text_config()):
        config.tie_word_embeddings = tied
    model.tie_weights()


def _unquantised(model: Any) -> Any:
    """Return the model as one that was never quantised: only such a one can be saved."""
    with torch.device("meta"):
        whole = AutoModelForCausalLM.from_config(model.config, dtype=model.dtype)
    whole.load_state_dict(model.state_dict(), strict=True, assign=True)
    whole.tie_weights()
    whole.generation_config = model.generation_config
    return whole
