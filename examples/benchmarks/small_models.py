"""What the benchmarks share: random models, questions of a given length, and the peak of a process."""

import argparse
import concurrent.futures
import gc
import multiprocessing
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from dro_trl import Question
from dro_trl.lm import prompts

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

VOCABULARY = 32_000
QWEN2_25M: dict[str, Any] = {
    "hidden_size": 384,
    "intermediate_size": 1536,
    "num_hidden_layers": 6,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}
"""The shape of a Qwen2 of 25M parameters."""
TINY: dict[str, Any] = {
    **QWEN2_25M,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
SIZES: dict[str, dict[str, Any]] = {
    "tiny": TINY,
    "25M": QWEN2_25M,
    "0.5B": {
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
    },
    "1.5B": {
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
    },
}
"""Shapes of Qwen2, the larger ones those of Qwen2.5 0.5B and 1.5B but for the vocabulary."""


def word_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer to which every word is one token, so that a text has the length that was asked for."""
    template = prompts.scoring_prompt("", [])[0] + prompts.ranking_prompt("", [], [])
    said = [template, *vars(prompts.DEFAULT).values(), "[ ] >"]
    words = re.findall(r"\w+|[^\w\s]", " ".join(said)) + [str(i) for i in range(1, 100)]
    vocabulary = dict.fromkeys(["<unk>", "<s>", "</s>", "<pad>", *words, *(f"w{i}" for i in range(VOCABULARY))])
    ids = {word: i for i, word in enumerate(list(vocabulary)[:VOCABULARY])}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", ids["<s>"])])
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def questions(num: int, num_candidates: int, passage_tokens: int, seed: int = 0) -> list[Question]:
    """Return questions of ten words, with answers of three and passages of `passage_tokens`."""
    generator = torch.Generator().manual_seed(seed)

    def words(count: int) -> str:
        return " ".join(f"w{i}" for i in torch.randint(20_000, (count,), generator=generator).tolist())

    return [
        Question(
            question=words(10),
            answers=[words(3)],
            candidates=[
                {"id": f"{b}-{i}", "title": words(2), "text": words(passage_tokens - 2), "score": float(-i)}
                for i in range(num_candidates)
            ],
        )
        for b in range(num)
    ]


def random_model(model_type: str, dtype: torch.dtype = torch.float32, **shape: Any) -> PreTrainedModel:
    """Return a causal LM with random weights, on the GPU where there is one."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **{"vocab_size": VOCABULARY, "max_position_embeddings": 8192, **shape})
    with torch.device(DEVICE):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype)
    return model


def sized_model(size: str, dtype: str) -> PreTrainedModel:
    """Return a Qwen2 of one of `SIZES` with random weights."""
    return random_model("qwen2", getattr(torch, dtype), **SIZES[size])


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add `--size` and `--dtype` of the random models."""
    parser.add_argument("--size", choices=SIZES, default="25M")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")


class PeakMemory:
    """The peak since the object was made of a GPU's allocated memory; without one, of resident memory (Linux)."""

    def __init__(self) -> None:
        gc.collect()
        if DEVICE == "cuda":
            torch.cuda.reset_peak_memory_stats()
            self._start = torch.cuda.memory_allocated()
            return
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again from here.
        self._start = _status("VmRSS")

    def mib(self) -> float:
        """Return by how much memory has exceeded the start, at most, in MiB."""
        if DEVICE == "cuda":
            return (torch.cuda.max_memory_allocated() - self._start) / 2**20
        return (_status("VmHWM") - self._start) / 1024


def _status(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1])


def in_fresh_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return what a function returns in a process of its own, which has imported everything already.

    It is a fork of this one, which therefore must not have computed anything itself; where there is a GPU, which a
    fork cannot use, a new one.
    """
    context = multiprocessing.get_context("fork" if DEVICE == "cpu" else "spawn")
    with concurrent.futures.ProcessPoolExecutor(1, context) as pool:
        return pool.submit(function, *arguments).result()
