"""The quantities that estimates are made of."""

from dataclasses import dataclass
from typing import Literal

FLOAT = 4
"""Bytes of a float32: what norms, losses and master weights are computed in."""
BackendName = Literal["one process", "DDP", "FSDP2", "ZeRO-1", "ZeRO-2", "ZeRO-3"]
ATTENTION_INPUTS = frozenset({"q_proj", "k_proj", "v_proj", "qkv_proj"})
MLP_INPUTS = frozenset({"gate_proj", "up_proj", "gate_up_proj"})


@dataclass(frozen=True)
class ModelShape:
    """The sizes of a decoder-only language model."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    parameters: int
    """All of them, tied embeddings once."""
    layer_norms: int = 2
    """RMSNorms of hidden size in a layer: 2, or 4 in Gemma 3."""
    head_norms: bool = False
    """Whether each head's queries and keys are normalised (Qwen 3, Gemma 3)."""
    mask_kinds: int = 1
    """How many kinds of attention the layers have: 2 where some of them have a sliding window."""
    windowed_layers: int = 0
    window: int = 0
    """Tokens that a windowed layer sees."""

    @property
    def queries(self) -> int:
        """Width of all heads' queries."""
        return self.heads * self.head_dim

    @property
    def keys(self) -> int:
        """Width of all heads' keys, or values."""
        return self.kv_heads * self.head_dim

    @property
    def layer_weights(self) -> int:
        """Weights of the matrices of one layer: queries and output, keys and values, and the gated MLP's three."""
        return self.hidden * (2 * self.queries + 2 * self.keys + 3 * self.intermediate)

    @property
    def head_weights(self) -> int:
        """Weights of the output embeddings."""
        return self.vocabulary * self.hidden


@dataclass(frozen=True)
class Precision:
    """Bytes of a number."""

    weights: int = 4
    """Of a weight and of the residual stream."""
    compute: int = 4
    """Of what matrices are multiplied in."""
    adapters: int = 4
    """Of an adapter's weight: PEFT makes them float32."""
    autocast: bool = False
    """Whether `torch.autocast` converts the inputs of matrix products."""

    @property
    def converts(self) -> bool:
        """Whether weights and activations are converted for each product."""
        return self.autocast and self.weights != self.compute


@dataclass(frozen=True)
class Tuning:
    """How a model is trained."""

    trained: bool = True
    adapted: frozenset[str] | None = None
    """Names of the matrices that have a LoRA adapter, such as `q_proj`; None is full fine-tuning."""
    rank: int = 0
    first_layer: int = 0
    """The lowest layer with something to train: the backward pass stops there."""
    checkpointing: bool = False
    """Activation checkpointing: a layer's input is kept, the rest computed again."""

    @property
    def full(self) -> bool:
        """Whether every weight is trained."""
        return self.trained and self.adapted is None


@dataclass(frozen=True)
class Compared:
    """What attention compares in a row; numbers are of tokens, or of pairs of them."""

    pairs: float
    keys: float
    """Keys as they are."""
    repeated: float
    """Keys that are repeated for all heads, as a mask asks for; a copy of one counts again."""
    mask: float = 0.0
    """Elements of a mask."""
    masks: int = 1
    """How many of them all layers together share."""


@dataclass(frozen=True)
class Reading:
    """What one forward pass of a micro-batch reads."""

    rows: float
    length: float
    """Tokens in a row."""
    kept: float
    """Positions whose logits are computed."""
    compared: Compared | None = None
    """By attention block by block, where a prompt has several continuations behind it; None is causal attention."""
    longest: float = 0.0
    """Tokens of a prompt with the longest of its continuations, where there are several."""
    token_logps: bool = True
    """Whether those logits go through a log-softmax over the vocabulary; else a few of them are picked."""

    @property
    def tokens(self) -> float:
        """In all rows."""
        return self.rows * self.length

    def attention(self, shape: ModelShape) -> Compared:
        """Return what attention compares in a row; a window shorter than a continuation's end takes one mask."""
        if self.compared is None:
            return Compared(self.length**2 / 2, self.length, 0)
        if shape.window and self.longest > shape.window:
            return Compared(self.length**2, 0, self.length, self.length**2, shape.mask_kinds)
        return self.compared


@dataclass(frozen=True)
class Backend:
    """How the work is divided."""

    name: BackendName = "one process"
    processes: int = 1
    offload_weights: bool = False
    offload_optimizer: bool = False
    gpu: bool = False

    @property
    def stage(self) -> int:
        """1 and more: the optimizer's state is sharded; 2: gradients too; 3: weights too (as FSDP2 does)."""
        return {"ZeRO-1": 1, "ZeRO-2": 2, "ZeRO-3": 3, "FSDP2": 3}.get(self.name, 0)

    @property
    def deepspeed(self) -> bool:
        """Whether DeepSpeed runs it."""
        return self.name.startswith("ZeRO")

    def share(self, stage: int, size: float) -> float:
        """Return this process's part of what is sharded from a stage on."""
        return size / self.processes if self.stage >= stage else size
