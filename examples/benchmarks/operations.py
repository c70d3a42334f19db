"""Floating-point operations of a training step: those that are done, and the fewest that it could do."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch._ops import OpOverloadPacket
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from dro_trl import AutoregressivePolicy, Question, Selection
from dro_trl.lm import encoding, prompts
from dro_trl.policies.autoregressive import Path
from dro_trl.recipes.estimates.quantities import ModelShape

aten = torch.ops.aten
PRODUCTS = {aten.mm: None, aten.addmm: None, aten.bmm: "attention", aten.baddbmm: "attention"}
"""And of what they are, where it is one thing: only attention multiplies many matrices at once."""
KERNELS = ("flash_attention_for_cpu", "flash_attention", "efficient_attention", "cudnn_attention")


def attention_operations(kernel: OpOverloadPacket) -> Callable[..., int]:
    """Return a formula of one of torch's attention kernels: its counter does not know all, and none that is causal.

    There are 2 products of length x length x width in the forward pass, and 5 in the backward pass, which computes the
    scores again. Where attention is causal, without a mask, a kernel leaves out what is not seen.
    """
    names = [argument.name for argument in kernel.default._schema.arguments]
    products = 5 if names[0].startswith("grad_out") else 2

    def count(*args: Any, **kwargs: Any) -> int:
        given = dict(zip(names, args, strict=False)) | kwargs
        batch, heads, rows, width = given["query"].shape
        pairs = rows * (rows + 1) // 2 if given.get("is_causal") else rows * given["key"].shape[2]
        return 2 * products * batch * heads * width * pairs

    return count


def counting(vocabulary: int) -> tuple[FlopCounterMode, Counter[str]]:
    """Return torch's counter of operations, and what it finds by kind: `layers`, `attention` and `logits`.

    Args:
        vocabulary: A product with a dimension of this size is of the logits.
    """
    found: Counter[str] = Counter()

    def noting(formula: Callable[..., int], kind: str | None) -> Callable[..., int]:
        def count(*args: Any, **kwargs: Any) -> int:
            number = formula(*args, **kwargs)
            of_logits = any(vocabulary in arg.shape for arg in args if isinstance(arg, torch.Tensor))
            found[kind or ("logits" if of_logits else "layers")] += number
            return number

        count._get_raw = True  # type: ignore[attr-defined]  # Tensors, not their shapes alone.
        return count

    mapping = {product: noting(flop_registry[product], kind) for product, kind in PRODUCTS.items()}
    for name in KERNELS:
        for part in ("", "_backward"):
            kernel = getattr(aten, f"_scaled_dot_product_{name}{part}")
            mapping[kernel] = noting(attention_operations(kernel), "attention")
    return FlopCounterMode(display=False, custom_mapping=mapping), found


@dataclass(frozen=True)
class Reads:
    """What a model has to read: texts, each seen by itself alone but for what it continues."""

    tokens: int
    pairs: int
    """Of a token and one that it sees, itself included."""
    kept: int
    """Positions whose logits count."""

    @classmethod
    def of(cls, prompt: int, continuations: Iterable[int], kept: int) -> "Reads":
        """Return what a prompt and its continuations come to; lengths in tokens, without what predicts nothing."""
        lengths = list(continuations)
        pairs = prompt * (prompt + 1) // 2 + sum(n * prompt + n * (n + 1) // 2 for n in lengths)
        return cls(prompt + sum(lengths), pairs, kept)

    def __add__(self, other: "Reads") -> "Reads":
        return Reads(self.tokens + other.tokens, self.pairs + other.pairs, self.kept + other.kept)


def selector_reads(policy: Any, row: Question, selections: Sequence[Selection]) -> Reads:
    """Return what the selector has to read of a question: its prompt once, whatever is drawn.

    Scored passages do not see each other where the policy says so; written selections do not either.
    """
    if isinstance(policy, AutoregressivePolicy):
        paths = [Path.of(policy, len(row["candidates"]), list(z)) for z in dict.fromkeys(map(tuple, selections))]
        open_ = [[i for i, allowed in enumerate(path.allowed) if len(allowed) > 1] for path in paths]
        # The first choice is read off the prompt's end; a later one off the token before it.
        kept = 1 + sum(len([i for i in places if i > 0]) for places in open_)
        return Reads.of(len(policy.encode([row]).prompt_ids[0]), [places[-1] for places in open_], kept)
    text, spans = prompts.scoring_prompt(row["question"], row["candidates"], policy.texts)
    if policy.item_score == "pointwise":
        passages = [_length(policy, text[start:end]) for start, end in spans]
        return Reads.of(_length(policy, encoding.render(policy.tokenizer, text[: spans[0][0]])), passages, len(spans))
    if policy.item_score == "passage_end":
        return Reads.of(_length(policy, encoding.render(policy.tokenizer, text)), [], len(spans))
    raise ValueError(f"item_score={policy.item_score!r}: how little it has to read is not written down here")


def generator_reads(scorer: Any, row: Question, selections: Sequence[Selection]) -> Reads:
    """Return what the generator has to read of a question: the prompt of each distinct selection, and its answer."""
    (answer,) = (len(ids) for ids in scorer.alias_ids(row))
    total = Reads(0, 0, 0)
    for selection in dict.fromkeys(map(tuple, selections)):
        total += Reads.of(len(scorer.prompt_ids(row, selection)), [answer - 1], answer)
    return total


def _length(policy: Any, text: str) -> int:
    return len(encoding.encode(policy.tokenizer, text))


def sizes_of(shape: ModelShape) -> dict[str, int]:
    """Return what each kind of operations is in proportion to."""
    return {
        "layers": shape.layers * shape.layer_weights,
        "attention": shape.layers * shape.queries,
        "logits": shape.head_weights,
    }


def floor_operations(shape: ModelShape, reads: Reads) -> Counter[str]:
    """Return the fewest operations of a forward and a backward pass, by kind."""
    forward = {"layers": 2 * reads.tokens, "attention": 4 * reads.pairs, "logits": 2 * reads.kept}
    return Counter({kind: 3 * forward[kind] * size for kind, size in sizes_of(shape).items()})


def at_size(operations: Counter[str], shape: ModelShape, other: ModelShape) -> Counter[str]:
    """Return what a step's operations would be on a model of another size that reads the same tokens."""
    before, after = sizes_of(shape), sizes_of(other)
    return Counter({kind: number * after[kind] // before[kind] for kind, number in operations.items()})
