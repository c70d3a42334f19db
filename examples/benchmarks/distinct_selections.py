"""How far a step's gradient is from the exact one: M draws, and M distinct selections (`without_replacement`).

    OMP_NUM_THREADS=1 python examples/benchmarks/distinct_selections.py

Problems of N = 8 items and K = 2 with random item scores, flat to sharp, and rewards that add up what the items of a
selection contribute, with a standard deviation of 2 nats. For each estimator the root of the mean squared error of the
selector's gradient in the item scores, and the length of its bias, both in lengths of the exact gradient over all
selections; roots of means over problems of all three, so that a problem counts by how much there is to learn from it.
GRPO's exact gradient is that of the expected reward over the reward's deviation.

`--problems FILE` measures on problems of your own, a JSON object a line: `scores`, those of N items, `rewards`,
those of all N!/(N-K)! selections in the order of `itertools.permutations(range(N), K)`, and `step` where they are of
steps of a training. `--num_distinct` is how many selections `without_replacement` takes: a generator reads distinct
ones only, so that M draws cost what is in their column `distinct`.
"""

import argparse
import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from dro_trl import ScoredSelections, gumbel_top_k, plackett_luce_logps
from dro_trl.files.writing import write_json
from dro_trl.losses.loss_types import selection_weights, selector_loss
from dro_trl.losses.options import LossOptions
from dro_trl.policies.plackett_luce import plackett_luce_step
from dro_trl.policies.stochastic_beams import draw_distinct

SPREADS = {"flat": 0.5, "middling": 2.0, "sharp": 4.0}
LOSS_TYPES = ("dro", "rloo", "grpo")
Problem = tuple[Tensor, Tensor, Tensor]
"""Item scores, (N,), all selections, (T, K), and their rewards, (T,)."""
SQUARES = ("error", "bias", "exact")
"""Squared lengths: of the error, on average over draws, of the bias, and of the exact gradient."""


def random_problems(num: int, num_items: int, num_selected: int, spread: float, seed: int) -> list[Problem]:
    """Return problems with item scores of a standard deviation of `spread` nats."""
    generator = torch.Generator().manual_seed(seed)
    selections = torch.tensor(list(itertools.permutations(range(num_items), num_selected)))
    problems = []
    for _ in range(num):
        scores, worth = torch.randn(2, num_items, generator=generator, dtype=torch.float64)
        problems.append((spread * scores, selections, 2 / math.sqrt(num_selected) * worth[selections].sum(-1)))
    return problems


def read_problems(path: Path) -> dict[str, list[Problem]]:
    """Return the problems of a file: those of each step, if it names steps, and all of them.

    Raises:
        ValueError: If a line's rewards are not as many as its selections for any K.
    """
    groups: dict[str, list[Problem]] = {}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        row = json.loads(line)
        scores, rewards = (torch.tensor(row[name], dtype=torch.float64) for name in ("scores", "rewards"))
        sizes = {math.perm(len(scores), k): k for k in range(len(scores), 0, -1)}
        if len(rewards) not in sizes:
            raise ValueError(
                f"{path}: row {number}: {len(rewards)} rewards and {len(scores)} scores; give one of {sorted(sizes)}"
            )
        chosen = torch.tensor(list(itertools.permutations(range(len(scores)), sizes[len(rewards)])))
        for name in [*([f"step {row['step']}"] if "step" in row else []), "all of them"]:
            groups.setdefault(name, []).append((scores, chosen, rewards))
    return dict(sorted(groups.items(), key=lambda group: group[0] == "all of them"))


def gradient(objective: Callable[[Tensor], Tensor], scores: Tensor, selections: Tensor) -> Tensor:
    """Return the ascent direction in the item scores, (R, N), of an objective of the selections' log-probabilities."""
    scores = scores.expand(len(selections), -1).clone().requires_grad_()
    (found,) = torch.autograd.grad(objective(plackett_luce_logps(scores, selections)[0]), scores)
    return found


def exact_gradient(problem: Problem, loss_type: str) -> Tensor:
    """Return what the estimates aim at, (N,)."""
    scores, selections, rewards = problem
    if loss_type == "dro":
        return gradient(lambda logps: (logps + rewards).logsumexp(-1).sum(), scores, selections[None])[0]
    probs = plackett_luce_logps(scores[None], selections[None])[0][0].exp()
    found = gradient(lambda logps: (logps.exp() * rewards).sum(), scores, selections[None])[0]
    variance = probs @ (rewards - probs @ rewards).square()
    return found / variance.sqrt() if loss_type == "grpo" else found


def measure(problem: Problem, num: int, draws: int, distinct: bool, seed: int) -> dict[str, float]:
    """Return each loss's squared lengths, and how many of the M selections are distinct."""
    scores, selections, rewards = problem
    shape = selections.shape[-1], num
    generators = [torch.Generator().manual_seed(seed * draws + draw) for draw in range(draws)]
    rows = scores.expand(draws, -1)
    extra: dict[str, Tensor] = {}
    if distinct:
        drawn = draw_distinct(plackett_luce_step(rows), [len(scores)] * draws, *shape, generators)
        found, behavior_logps = drawn.selections, drawn.behavior_logps
        extra = {"old_logps": drawn.old_logps, "leave_one_out": drawn.leave_one_out}
    else:
        found = gumbel_top_k(rows, *shape, generators)
        behavior_logps, _ = plackett_luce_logps(rows, found)
    index = (found[:, :, None] == selections).all(-1).int().argmax(-1)
    figures = {"distinct": float(torch.tensor([len(row.unique()) for row in index]).double().mean())}
    for loss_type in LOSS_TYPES:
        args = LossOptions(loss_type=loss_type)  # type: ignore[arg-type]

        def objective(logps: Tensor, args: LossOptions = args) -> Tensor:
            scored = ScoredSelections(logps, logps.detach() - behavior_logps, rewards[index], **extra)
            return -draws * selector_loss(scored, selection_weights(scored, args), args)

        exact, estimates = exact_gradient(problem, loss_type), gradient(objective, scores, found)
        lengths = (estimates - exact).square().sum(-1).mean(), (estimates.mean(0) - exact).square().sum()
        for name, square in zip(SQUARES, (*lengths, exact.square().sum()), strict=True):
            figures[f"{loss_type}_{name}"] = float(square)
    return figures


def relative(found: list[dict[str, float]]) -> dict[str, float]:
    """Return errors and biases in lengths of the exact gradient, over problems."""
    sums = {key: sum(figures[key] for figures in found) for key in found[0]}
    shares = itertools.product(LOSS_TYPES, SQUARES[:2])
    lengths = {f"{loss}_{name}": math.sqrt(sums[f"{loss}_{name}"] / sums[f"{loss}_exact"]) for loss, name in shares}
    return {"distinct": sums["distinct"] / len(found), **lengths}


def main() -> None:
    """Measure, print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=Path, help="a file of problems in place of random ones")
    parser.add_argument("--num_problems", type=int, default=12)
    parser.add_argument("--num_selections", type=int, default=8)
    parser.add_argument(
        "--num_distinct", type=int, help="those of without_replacement; as --num_selections if not given"
    )
    parser.add_argument("--draws", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("distinct_selections.json"))
    options = parser.parse_args()
    if options.problems is None:
        groups = {
            name: random_problems(options.num_problems, 8, 2, spread, options.seed) for name, spread in SPREADS.items()
        }
    else:
        groups = read_problems(options.problems)
    sizes = {False: options.num_selections, True: options.num_distinct or options.num_selections}
    table = Table("selector", "proposal", "M", "distinct", *LOSS_TYPES)
    rows = []
    for (name, problems), distinct in itertools.product(groups.items(), (False, True)):
        drawn = sizes[distinct], options.draws, distinct
        means = relative([measure(problem, *drawn, options.seed + i) for i, problem in enumerate(problems)])
        proposal = "without_replacement" if distinct else "policy"
        rows.append({"selector": name, "proposal": proposal, "num_selections": sizes[distinct], **means})
        cells = (f"{means[f'{loss}_error']:.2f}, bias {means[f'{loss}_bias']:.2f}" for loss in LOSS_TYPES)
        table.add_row(name, proposal, str(sizes[distinct]), f"{means['distinct']:.1f}", *cells)
    write_json(options.output, {"draws": options.draws, "rows": rows})
    Console(width=110).print(table)
    print(f"Results: {options.output}")


if __name__ == "__main__":
    main()
