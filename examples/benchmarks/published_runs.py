"""What `dro-trl estimate`'s formulas say of published trainings with sharded weights, beside what was published.

    python examples/benchmarks/published_runs.py

Full fine-tuning under FSDP on A100 GPUs of 80 GB (312 TFLOP/s in bfloat16), texts of 4,096 or 8,192 tokens: tokens a
second and GPU, as torchtitan (docs/performance.md) and IBM's fms-fsdp (README.md) publish them. For each: the share of
the peak that the operations of our formulas took in the published time, activations made again among them; the tokens
a second expected at the share that `--utilization` assumes; the bytes that a GPU receives in a step, and the gigabytes
a second at which that takes as long as the published step, so that more than this hides behind the work.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from dro_trl.files.writing import write_json
from dro_trl.recipes.estimates.exchange import Exchanged, exchanged_bytes
from dro_trl.recipes.estimates.flops import training_flops
from dro_trl.recipes.estimates.quantities import Backend, ModelShape, Reading, Tuning

PEAK = 312e12
"""Operations a second of an A100 in bfloat16, as its maker states."""


def llama(hidden: int, intermediate: int, layers: int, heads: int, kv_heads: int, vocabulary: int) -> ModelShape:
    """Return the shape of a Llama, whose embeddings are not tied."""
    shape = ModelShape(hidden, intermediate, layers, heads, kv_heads, 128, vocabulary, 0)
    norms = (2 * layers + 1) * hidden
    return ModelShape(**{**vars(shape), "parameters": layers * shape.layer_weights + 2 * shape.head_weights + norms})


LLAMA_2_13B = llama(5120, 13_824, 40, 40, 40, 32_000)
LLAMA_2_34B = llama(8192, 22_016, 48, 64, 8, 32_000)
LLAMA_2_70B = llama(8192, 28_672, 80, 64, 8, 32_000)
LLAMA_3_70B = llama(8192, 28_672, 80, 64, 8, 128_256)


@dataclass(frozen=True)
class Published:
    """A training, and its tokens a second and GPU."""

    source: str
    model: str
    shape: ModelShape
    gpus: int
    texts: int
    """On each GPU, all in one micro-step."""
    length: int
    checkpointing: bool
    rate: float


RUNS = (
    Published("torchtitan", "Llama 2 13B", LLAMA_2_13B, 64, 2, 4096, False, 2162),
    Published("torchtitan", "Llama 2 70B", LLAMA_2_70B, 64, 2, 4096, True, 353),
    Published("torchtitan", "Llama 3 70B", LLAMA_3_70B, 64, 1, 8192, True, 331),
    Published("fms-fsdp", "Llama 2 34B", LLAMA_2_34B, 128, 8, 4096, True, 772),
    Published("fms-fsdp", "Llama 2 70B", LLAMA_2_70B, 128, 6, 4096, True, 380),
)


def compare(run: Published, utilization: float) -> dict[str, float | str | int | bool]:
    """Return what the formulas say of a run."""
    tokens = run.texts * run.length
    reading = Reading(run.texts, run.length, tokens)
    operations = training_flops(run.shape, Tuning(checkpointing=run.checkpointing), reading)
    weights = 2.0 * run.shape.parameters  # bfloat16.
    received = sum(exchanged_bytes(Backend("FSDP2", run.gpus), 1, [Exchanged(weights, weights, 2)]).values())
    return {
        "source": run.source,
        "model": run.model,
        "gpus": run.gpus,
        "checkpointing": run.checkpointing,
        "published": run.rate,
        "expected": tokens / (operations / (PEAK * utilization)),
        "share_of_peak": operations * run.rate / tokens / PEAK,
        "received_gb": received / 1e9,
        "hides_from_gb_s": received * run.rate / tokens / 1e9,
    }


def main() -> None:
    """Compare, print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--utilization", type=float, default=0.4, help="share of the peak that is assumed")
    parser.add_argument("--output", type=Path, default=Path("published_runs.json"))
    options = parser.parse_args()
    rows = [compare(run, options.utilization) for run in RUNS]
    table = Table("run", "published, tokens/s", "expected", "share of the peak", "received, GB", "hides from, GB/s")
    for row in rows:
        cells = (f"{row['share_of_peak']:.2f}", f"{row['received_gb']:.0f}", f"{row['hides_from_gb_s']:.1f}")
        run = f"{row['model']}, {row['gpus']} GPUs, {row['source']}"
        table.add_row(run, f"{row['published']:.0f}", f"{row['expected']:.0f}", *cells)
    write_json(options.output, {"utilization": options.utilization, "rows": rows})
    Console(width=110).print(table)
    print(f"Results: {options.output}")


if __name__ == "__main__":
    main()
