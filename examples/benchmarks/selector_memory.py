"""Peak memory of a training step of the selector, by the number of selections M that are drawn for a question.

    python examples/benchmarks/selector_memory.py

A Qwen2 of 25M random weights in float32, or of another size, one question of N = 20 passages of 100 tokens, K = 5. A
step draws M selections, scores them, and updates the weights (AdamW). Each figure is the second step's peak in a fresh
process, the median of `--repeats` such processes: the increase of resident memory, or of a GPU's, over the state
before the model was made, and over the state before that step. The selector reads its prompt once, whatever M: memory
at M = 16 should be at most 1.5 times that at M = 2.
"""

import argparse
import statistics
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from small_models import PeakMemory, add_model_options, in_fresh_process, questions, sized_model, word_tokenizer

from dro_trl import Question, dro_loss
from dro_trl.files.writing import write_json
from dro_trl.policies.base import load_policy

POLICIES = {
    "pointwise": ("dro_trl.PlackettLucePolicy", {}),
    "passage_end": ("dro_trl.PlackettLucePolicy", {"item_score": "passage_end"}),
    "autoregressive": ("dro_trl.AutoregressivePolicy", {}),
}


def selector_step(
    chooser: Any, model: Any, optimizer: torch.optim.Optimizer, rows: list[Question], num_selections: int, seed: int
) -> None:
    """Draw M selections for a question, and update the selector with random weights of them."""
    inputs = chooser.encode(rows).to(model.device)
    sample = chooser.sample(model, inputs, num_selections, [torch.Generator().manual_seed(seed)])
    weights = torch.rand(1, num_selections, generator=torch.Generator().manual_seed(0)).softmax(-1).to(model.device)
    dro_loss(sample.logps, weights).backward()
    optimizer.step()
    optimizer.zero_grad()


def measure(policy: str, num_selections: int, passage_tokens: int, size: str, dtype: str) -> dict[str, float]:
    """Train two steps, and return the peak of the second in MiB."""
    torch.set_num_threads(1)
    path, kwargs = POLICIES[policy]
    chooser = load_policy(path, word_tokenizer(), 5, kwargs)
    rows = questions(1, 20, passage_tokens)
    whole = PeakMemory()
    model = sized_model(size, dtype).train()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    for number in range(2):
        step = PeakMemory()
        selector_step(chooser, model, optimizer, rows, num_selections, number)
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "peak_mib": whole.mib(),
        "step_mib": step.mib(),
    }


def main() -> None:
    """Measure, print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num_selections", type=int, nargs="+", default=[2, 4, 8, 16])
    parser.add_argument("--passage_tokens", type=int, default=100)
    parser.add_argument("--policies", nargs="+", choices=POLICIES, default=list(POLICIES))
    parser.add_argument("--repeats", type=int, default=3)
    add_model_options(parser)
    parser.add_argument("--output", type=Path, default=Path("selector_memory.json"))
    options = parser.parse_args()
    rows = []
    shown = Table("policy", "M", "peak (MiB)", "ratio", "step alone (MiB)", "ratio")
    for policy in options.policies:
        first: dict[str, float] = {}
        for num in options.num_selections:
            given = (policy, num, options.passage_tokens, options.size, options.dtype)
            runs = [in_fresh_process(measure, *given) for _ in range(options.repeats)]
            row = {"policy": policy, "num_selections": num, "runs": runs}
            for name in ("peak_mib", "step_mib"):
                row[name] = statistics.median(run[name] for run in runs)
                row[f"{name}_ratio"] = row[name] / first.setdefault(name, row[name])
            rows.append(row)
            figures = [f"{row[name]:.0f} {row[f'{name}_ratio']:.2f}".split() for name in ("peak_mib", "step_mib")]
            shown.add_row(policy, str(num), *figures[0], *figures[1])
    Console().print(shown)
    write_json(options.output, rows)
    print(f"Results: {options.output}")


if __name__ == "__main__":
    main()
