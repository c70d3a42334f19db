"""Models whose sizes are known without their files; needs no torch."""

from pathlib import Path
from typing import Any


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


def known_sizes(name: str) -> dict[str, Any] | None:
    """Return what the configuration of a model says, None where it has to be read."""
    last = name.rstrip("/").rpartition("/")[2].lower()
    known = next((key for key in NAMED if last == key or last.startswith(f"{key}-")), None)
    return dict(NAMED[known]) if known and not Path(name).exists() else None
