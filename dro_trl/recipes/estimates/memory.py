"""What a training step needs of memory, as formulas of shapes and token counts.

Everything is in bytes of one process. The formulas follow from what PyTorch's autograd keeps for
each operation of a decoder layer as transformers writes it (Llama, Qwen, Mistral, Gemma 3): RMSNorm in float32, RoPE,
fused attention, a gated MLP. Assumed throughout: questions as long as the longest, dropout off, and memory
that is freed is used again (a real allocator loses some of it to fragmentation).
"""

from collections.abc import Mapping
from dataclasses import dataclass

from dro_trl.recipes.estimates.quantities import (
    ATTENTION_INPUTS,
    FLOAT,
    MLP_INPUTS,
    Backend,
    ModelShape,
    Precision,
    Reading,
    Tuning,
)


def kept_of_a_norm(shape: ModelShape, precision: Precision, tuning: Tuning) -> float:
    """Return the bytes that are kept of a number that goes through an RMSNorm: the number in float32 and, where the
    norm's weight is trained, the normalised one, in the weight's format or, in Gemma 3, in float32.
    """
    in_gemma = shape.head_norms and shape.layer_norms == 4
    return FLOAT + ((FLOAT if in_gemma else precision.weights) if tuning.full else 0)


def kept_per_token(shape: ModelShape, precision: Precision, tuning: Tuning, reading: Reading) -> float:
    """Return the bytes that autograd keeps of one token in one layer, without checkpointing.

    A trained weight needs its input, a product of two activations both; a frozen matrix nothing:

    - the norms, as `kept_of_a_norm` says;
    - queries, keys, values and the attention's output, which is the output matrix's input; keys and values repeated
      for all heads where a mask is used, and as often as they are copied; the log of each head's normaliser. Scores
      are not kept (FlashAttention);
    - the MLP's gate, its activation, the other half, and the product where the matrix behind it is trained;
    - the inputs of trained matrices, once for all that share one. Autocast, or an adapter in another number format
      than its input, converts it for each matrix apart.
    """
    h, s, names = shape.hidden, precision.compute, tuning.adapted
    norm = kept_of_a_norm(shape, precision, tuning)
    kept = shape.layer_norms * norm * h
    if shape.head_norms:
        kept += norm * (shape.queries + shape.keys)
    compared = reading.attention(shape)
    kept += s * 2 * (shape.queries + (shape.keys * compared.keys + shape.queries * compared.repeated) / reading.length)
    kept += FLOAT * shape.heads
    kept += 3 * s * shape.intermediate
    if names is None:
        attention, mlp = (3, 2) if precision.converts else (1, 1)
        return kept + (s * (h * (attention + mlp) + shape.intermediate) if tuning.full else 0)
    attention, mlp = len(names & ATTENTION_INPUTS), len(names & MLP_INPUTS)
    output, down = "o_proj" in names, "down_proj" in names
    size = s if precision.autocast else precision.adapters
    if precision.weights == precision.adapters and not precision.autocast:  # No conversion: one input for all.
        attention, mlp, output = min(attention, 1), min(mlp, 1), False
    return kept + size * (
        h * (attention + mlp) + shape.queries * output + shape.intermediate * down + tuning.rank * len(names)
    )


def kept_activations(
    shape: ModelShape, precision: Precision, tuning: Tuning, reading: Reading, gpu: bool = False
) -> float:
    """Return the bytes that are kept from a model's forward pass for its backward pass, logits aside.

    With checkpointing it is each layer's input. A mask is kept once, or on a GPU, whose kernel converts it, once a
    layer; so is the mask of a layer whose window is shorter than the sequence. Beside the layers there are the last
    norm and RoPE's tables.
    """
    if not tuning.trained:
        return 0.0
    s, tokens, layers = precision.compute, reading.tokens, shape.layers - tuning.first_layer
    outside = shape.hidden * kept_of_a_norm(shape, precision, tuning)
    outside += shape.mask_kinds * 2 * shape.head_dim * precision.weights
    compared = reading.attention(shape)
    mask = reading.rows * compared.mask * s
    if tuning.checkpointing:
        return tokens * (outside + shape.layers * shape.hidden * precision.weights) + compared.masks * mask
    kept = tokens * (outside + layers * kept_per_token(shape, precision, tuning, reading))
    kept += mask * (layers if gpu else compared.masks)
    if reading.compared is None and reading.length > shape.window:
        windowed = shape.windowed_layers * layers / shape.layers
        kept += windowed * tokens * s * (reading.length + 2 * (shape.queries - shape.keys))
    return kept


def working_memory(
    shape: ModelShape, precision: Precision, tuning: Tuning, reading: Reading, backward: bool = True
) -> float:
    """Return the bytes that come and go while one layer is computed.

    Forward: the MLP's gate, its activation and the other half, and the residual stream with its norm. Backward: the
    gradients of those four, of the residual stream twice and, with checkpointing, all that the layer keeps.
    """
    s, tokens = precision.compute, reading.tokens
    if not (backward and tuning.trained):
        return tokens * (3 * s * shape.intermediate + 2 * FLOAT * shape.hidden)
    again = kept_per_token(shape, precision, tuning, reading) if tuning.checkpointing else 0.0
    return tokens * (again + 3 * s * shape.intermediate + 2 * FLOAT * shape.hidden)


def logits_memory(shape: ModelShape, precision: Precision, reading: Reading) -> tuple[float, float]:
    """Return the bytes of the logits at their peak, and of what is kept of them for the backward pass.

    In the forward pass the logits themselves; at the start of the backward pass their gradient as well. They are kept
    where their log-softmax is wanted (computed in blocks too small to count); where a few are picked, those are.
    """
    size = precision.compute * reading.kept * shape.vocabulary
    return 2 * size, size if reading.token_logps else 0.0


def converted_weights(shape: ModelShape, precision: Precision, tuning: Tuning) -> float:
    """Return the bytes of the weights that autocast converts and the backward pass waits for.

    Autocast keeps those of trained weights until the forward pass is over, with checkpointing too; frozen layers are
    converted again with the rest of a layer that is checkpointed.
    """
    if not (precision.converts and tuning.trained):
        return 0.0
    layers = 0 if tuning.checkpointing and not tuning.full else shape.layers - tuning.first_layer
    return precision.compute * (layers * shape.layer_weights + shape.head_weights)


def optimizer_bytes(optimizer: str, size: int) -> float:
    """Return the bytes of an optimizer's state for one trained weight of `size` bytes.

    Raises:
        ValueError: If the optimizer is not known here.
    """
    for part, found in (("8bit", 2.0), ("adamw", 2.0 * size), ("adafactor", 0.0), ("sgd", 0.0), ("lion", 1.0 * size)):
        if part in optimizer:
            return found
    raise ValueError(f"optim={optimizer!r}: the size of its state is not known; estimate with adamw_torch, or sgd")


def trained_size(precision: Precision, adapters: bool, backend: Backend) -> int:
    """Return the bytes of a trained weight, and of its gradient.

    DeepSpeed converts adapters with the rest of the model; accelerate has FSDP2 keep trained weights in float32.
    """
    if backend.name == "FSDP2":
        return FLOAT
    return precision.adapters if adapters and not backend.deepspeed else precision.weights


def state_memory(
    trained: int, frozen_bytes: float, precision: Precision, adapters: bool, optimizer: str, backend: Backend
) -> dict[str, float]:
    """Return the bytes of a process's weights, gradients and optimizer state, of both models.

    Mixed precision under DeepSpeed: 2 bytes a weight, 2 a gradient, and 12 for the optimizer, which keeps the weight
    in float32 beside Adam's two moments (ZeRO, Rajbhandari et al., 2020, section 3.1); stages shard the optimizer,
    then the gradients, then the weights. Elsewhere the moments have the weight's own number format.

    Args:
        trained: Weights that are trained.
        frozen_bytes: Bytes of those that are not, on one process.
        precision: Of the numbers.
        adapters: Whether the trained weights are adapters.
        optimizer: As in `TrainingArguments.optim`.
        backend: How they are divided.
    """
    size = trained_size(precision, adapters, backend)
    moments = optimizer_bytes(optimizer, FLOAT) + FLOAT if backend.deepspeed else optimizer_bytes(optimizer, size)
    return {
        "weights": backend.share(3, trained * size + frozen_bytes),
        "gradients": backend.share(2, trained * size),
        "optimizer": backend.share(1, trained * moments),
    }


def communication_memory(trained: int, gathered: int, size: int, compute: int, backend: Backend) -> float:
    """Return the bytes of a backend's buffers.

    DDP copies gradients into buckets. DeepSpeed's stages 1 and 2 have one bucket of at most 5e8 elements to reduce
    gradients in and one to gather weights in. Where weights are sharded, the largest module and two layers (the one in
    use, and the one that is fetched) are there at a time.

    Args:
        trained: Weights that are trained.
        gathered: Weights of the largest module and two layers.
        size: Bytes of a gradient.
        compute: Bytes of a weight that is gathered.
        backend: What is used.
    """
    if backend.name == "DDP":
        return float(trained * size)
    if backend.stage in (1, 2):
        return 2.0 * size * min(trained, 5 * 10**8)
    return float(compute * gathered) if backend.stage == 3 else 0.0


@dataclass(frozen=True)
class ModelStep:
    """What one model adds to a step, in bytes."""

    kept: float
    """Activations between the forward and the backward pass, and weights that were converted for them."""
    forward: float
    backward: float
    """What comes and goes in a pass."""
    logits: float
    logits_kept: float
    gradients: float
    head_gradient: float
    """Of the output embeddings, which is the first that there is."""


def phases(static: float, selector: ModelStep, generator: ModelStep, gradients_stay: bool) -> dict[str, float]:
    """Return the bytes in use at each moment of a step that can be its peak.

    The forward pass runs the selector, then the generator; the backward pass goes the other way, so that the
    generator's activations are gone and its gradients there when the selector's turn comes.

    Args:
        static: What is there all the time: weights, optimizer, buffers.
        selector: The selector's part.
        generator: The generator's part.
        gradients_stay: Whether gradients are there from the start: with gradient accumulation, or under DeepSpeed.
    """
    if gradients_stay:
        static += selector.gradients + generator.gradients
    ours, theirs = (0.0 if gradients_stay else part.gradients for part in (selector, generator))
    heads = [0.0 if gradients_stay else part.head_gradient for part in (selector, generator)]
    before = static + selector.kept + selector.logits_kept
    return {
        "selector's forward": static + selector.kept + selector.forward + selector.logits,
        "generator's forward": before + generator.kept + generator.forward,
        "between the passes": before + generator.kept + generator.logits,
        "generator's backward": before + generator.kept + heads[1] + generator.backward + generator.logits_kept,
        "selector's backward": static + selector.kept + theirs + heads[0] + selector.backward + selector.logits,
        "gradients complete": static + ours + theirs + selector.head_gradient,
    }


def total(parts: Mapping[str, float]) -> float:
    """Return the sum of some parts."""
    return sum(parts.values())
