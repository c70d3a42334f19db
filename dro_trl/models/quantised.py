"""What a base in four bits needs besides, to be trained under."""

from typing import Any, TypeVar

from torch import nn

Model = TypeVar("Model", bound=nn.Module)


def keep_gradients(model: Model) -> Model:
    """Let gradients through the four-bit layers of a model whose adapters are trained, also after it was evaluated.

    On a processor with AVX512-BF16, bitsandbytes 0.50 packs such a layer anew in its first forward outside training,
    for good, into a form that has no backward pass. Models that only answer keep that form, which is much faster.
    """
    layers: Any = model.modules()
    for layer in layers:
        if getattr(layer, "support_avx512bf16_for_cpu", False):
            layer.support_avx512bf16_for_cpu = False
            layer.state_dict()  # Unpacks one that is packed already.
    return model


def is_quantised(model: Any) -> bool:
    """Whether a model's weights are kept in four or eight bits."""
    return getattr(model, "hf_quantizer", None) is not None
