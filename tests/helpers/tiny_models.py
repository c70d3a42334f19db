"""Language models of a few thousand random weights, tokenizers and questions, all made in memory in milliseconds."""

import itertools
from functools import cache
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from dro_trl.lm import prompts
from dro_trl.types import Question

torch.set_num_threads(1)  # Models of this size wait for their threads longer than they compute.

WINDOW = 16
"""Sliding window of the Gemma 3 and Mistral types, in tokens: shorter than any prompt."""

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)

_GEMMA_LAYERS = {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"], "num_hidden_layers": 3}
_ARCHITECTURES: dict[str, tuple[type[PreTrainedModel], Any, dict[str, Any]]] = {
    "llama": (LlamaForCausalLM, LlamaConfig, {}),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config, {}),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config, {"head_dim": 8}),
    "gemma3": (Gemma3ForCausalLM, Gemma3TextConfig, {"head_dim": 8, "sliding_window": WINDOW, **_GEMMA_LAYERS}),
    "mistral": (MistralForCausalLM, MistralConfig, {"sliding_window": WINDOW}),
}
MODEL_TYPES = tuple(_ARCHITECTURES)


def tiny_model(
    kind: str, tokenizer: PreTrainedTokenizerFast, attn_implementation: str = "sdpa", seed: int = 0, **config: Any
) -> PreTrainedModel:
    """Return a float32 causal LM of one of `MODEL_TYPES` with random weights, whose distributions are not flat."""
    model_class, config_class, options = _ARCHITECTURES[kind]
    options = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 8192,
        "initializer_range": 0.3,
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        **options,
        **config,
    }
    torch.manual_seed(seed)
    model = model_class(config_class(**options, attn_implementation=attn_implementation))
    return model.eval()


@cache
def tiny_tokenizer(split_digits: bool = True, chat: bool = False) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer with " yes" and " no" as single tokens.

    Args:
        split_digits: Whether "12" is two tokens; else one, as every number up to 60.
        chat: Whether it has a chat template.
    """
    tokenizer = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, byte_level]) if split_digits else byte_level
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", "<pad>", *(["<|user|>", "<|assistant|>"] if chat else [])]
    trainer = trainers.BpeTrainer(
        vocab_size=520,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in special],
        show_progress=False,
    )
    tokenizer.train_from_iterator(_training_texts(), trainer)
    if not chat:  # A template says itself what a text begins with.
        start = ("<s>", tokenizer.token_to_id("<s>"))
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[start])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        chat_template=CHAT_TEMPLATE if chat else None,
    )


def _training_texts() -> list[str]:
    rows = tiny_questions(4, 12)
    texts = [prompts.scoring_prompt(row["question"], row["candidates"])[0] for row in rows]
    texts += [
        prompts.ranking_prompt(r["question"], r["candidates"], [str(i + 1) for i in range(12)][: len(r["candidates"])])
        for r in rows
    ]
    return [*texts, *["Useful: yes", "Useful: no"] * 50, *[" ".join(f"[{i}]" for i in range(1, 61))] * 50]


def tiny_questions(*sizes: int) -> list[Question]:
    """Return one question for each number of candidates; passage i of question b is gold where i == b."""
    towns = ["Oslo", "Lima", "Cairo", "Perth", "Quito", "Turin", "Kyoto"]
    return [
        Question(
            question=f"Who founded the club of {towns[b % 7]}?",
            answers=[f"Ada {towns[b % 7]}", f"A. {towns[b % 7]} the elder"],
            candidates=[
                {
                    "id": f"{b}-{i}",
                    "title": towns[(b + i) % 7] if i % 3 else "",
                    "text": f"The club of {towns[(b + i) % 7]} was founded by Ada {towns[(b + i * i) % 7]}.",
                    "score": 10.0 - i,
                }
                for i in range(size)
            ],
            gold_ids=[f"{b}-{b % size}"],
        )
        for b, size in enumerate(sizes)
    ]


def all_selections(num_candidates: int, num_selected: int) -> Tensor:
    """Return every ordered subset, (N! / (N - K)!, K): 12 of them for N = 4 and K = 2."""
    return torch.tensor(list(itertools.permutations(range(num_candidates), num_selected)))


def random_generators(num: int, seed: int = 0) -> list[torch.Generator]:
    """Return a seeded random generator for each of `num` questions."""
    return [torch.Generator().manual_seed(seed + i) for i in range(num)]


def record_forwards(model: nn.Module) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Return a list that gains the shapes of `input_ids` and `logits` at each forward of a causal LM from now on."""
    shapes: list[tuple[tuple[int, ...], tuple[int, ...]]] = []

    def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        shapes.append((tuple(kwargs["input_ids"].shape), tuple(output.logits.shape)))

    model.register_forward_hook(hook, with_kwargs=True)
    return shapes


def gradients(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    """Return the gradient of a loss for each trained parameter, and leave none behind."""
    named = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return {name: g if g is not None else torch.zeros_like(named[name]) for name, g in zip(named, found, strict=True)}


def largest_difference(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    """Return the largest difference between two sets of gradients, relative to the largest entry of the first."""
    scale = max(float(g.abs().max()) for g in first.values())
    assert scale > 0
    return max(float((first[name] - second[name]).abs().max()) for name in first) / scale
