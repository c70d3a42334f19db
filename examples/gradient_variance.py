"""Variance and bias of DRO's sampled selector gradient, against the exact one over all selections.

    python examples/gradient_variance.py

Twelve selections (N = 4, K = 2) with random item scores and random answer likelihoods, whose spread is varied: flat
where passages hardly matter, wide where one selection alone explains the answer. Writes gradient_variance.json.
"""

import argparse
import itertools
import json
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from dro_trl import control_variate, dro_loss, gumbel_top_k, importance_weights, log_importance, plackett_luce_logps

SELECTIONS = torch.tensor(list(itertools.permutations(range(4), 2)))
SPREADS = (0.25, 1.0, 3.0)
SAMPLES = (2, 4, 8, 16)


def gradient(objective: Callable[[Tensor], Tensor], scores: Tensor, selections: Tensor) -> Tensor:
    """Return the ascent direction in the item scores, (R, 4), of an objective of the selections' log-probabilities."""
    scores = scores.expand(len(selections), 4).clone().requires_grad_()
    logps, _ = plackett_luce_logps(scores, selections)
    (found,) = torch.autograd.grad(objective(logps), scores)
    return found


def measure(scores: Tensor, answer_logps: Tensor, num: int, draws: int, seed: int) -> dict[str, float]:
    """Return the total variance of one draw's gradient with and without the control variate, and the relative bias."""
    exact = gradient(lambda logps: (logps + answer_logps).logsumexp(-1).sum(), scores, SELECTIONS[None])[0]
    generators = [torch.Generator().manual_seed(seed)]
    drawn = gumbel_top_k(scores[None], 2, draws * num, generators)[0].view(draws, num, 2)
    rewards = answer_logps[(drawn[:, :, None] == SELECTIONS).all(-1).int().argmax(-1)]
    on_policy = torch.zeros_like(rewards)
    weights = importance_weights(log_importance(on_policy, rewards))
    figures = {}
    for name, baseline in (("with", control_variate(on_policy)), ("without", None)):
        found = gradient(lambda logps, c=baseline: -draws * dro_loss(logps, weights, c), scores, drawn)
        figures[f"variance_{name}"] = float(found.var(0).sum())
        figures[f"bias_{name}"] = float((found.mean(0) - exact).norm() / exact.norm())
    return figures


def main() -> None:
    """Measure, print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=20, help="random item scores and likelihoods to average over")
    parser.add_argument("--draws", type=int, default=5_000, help="sampled gradients for each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("gradient_variance.json"))
    options = parser.parse_args()
    generator = torch.Generator().manual_seed(options.seed)
    problems = torch.randn(options.problems, 16, generator=generator, dtype=torch.float64)
    rows = []
    for spread, num in itertools.product(SPREADS, SAMPLES):
        found = [measure(p[:4], spread * p[4:], num, options.draws, i) for i, p in enumerate(problems)]
        table = {name: torch.tensor([figures[name] for figures in found]) for name in found[0]}
        ratios = (table["variance_with"] / table["variance_without"]).log()
        middle, width = ratios.mean(), 1.96 * ratios.std() / len(ratios) ** 0.5
        rows.append(
            {
                "spread": spread,
                "num_selections": num,
                **{name: float(values.mean()) for name, values in table.items()},
                "variance_ratio": float(middle.exp()),
                "variance_ratio_ci95": [float((middle - width).exp()), float((middle + width).exp())],
            }
        )
    heading = f"{options.problems} problems, {options.draws:,} draws each, seed {options.seed}"
    shown = Table("spread (nats)", "M", "variance with", "without", "ratio, 95 % interval", "bias", title=heading)
    for row in rows:
        low, high = row["variance_ratio_ci95"]
        shown.add_row(
            f"{row['spread']}",
            f"{row['num_selections']}",
            f"{row['variance_with']:.3f}",
            f"{row['variance_without']:.3f}",
            f"{row['variance_ratio']:.2f} [{low:.2f}, {high:.2f}]",
            f"{row['bias_with']:.0%}",
        )
    Console().print(shown)
    options.output.write_text(
        json.dumps(
            {"problems": options.problems, "draws": options.draws, "seed": options.seed, "rows": rows}, indent=2
        )
    )
    print(f"Results: {options.output}")


if __name__ == "__main__":
    main()
