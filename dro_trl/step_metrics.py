"""What a step tells about the selector, as numbers to log."""

from collections.abc import Mapping, Sequence

import torch
from accelerate.utils import gather_object
from torch import Tensor

from dro_trl import weights
from dro_trl.modeling import SelectorGeneratorOutput
from dro_trl.types import Question, Selection


class Means:
    """Means of named values that come in step by step."""

    def __init__(self) -> None:
        self.values: dict[str, list[float]] = {}

    def add(self, values: Mapping[str, float]) -> None:
        """Note one value for each name."""
        for name, value in values.items():
            self.values.setdefault(name, []).append(value)

    def take(self) -> dict[str, float]:
        """Return each name's mean over all processes, and begin anew; every process must call it."""
        records = gather_object([self.values])
        self.values = {}
        names = dict.fromkeys(name for record in records for name in record)
        found = {name: [value for record in records for value in record.get(name, ())] for name in names}
        return {name: sum(values) / len(values) for name, values in found.items()}


@torch.no_grad()
def step_metrics(
    rows: Sequence[Question],
    output: SelectorGeneratorOutput,
    rewards: Tensor,
    log_ratios: Tensor,
    log_weights: Tensor,
    ref_logps: Tensor | None = None,
) -> dict[str, float]:
    """Return the means over a micro-batch.

    Args:
        rows: B questions.
        output: What the models make of their selections.
        rewards: (B, M).
        log_ratios: (B, M) log p_s(z|x) - log q(z|x) in nats.
        log_weights: (B, M) unnormalised log-weights in nats.
        ref_logps: (B, M) log-probabilities under the reference selector, where there is one.

    Returns:
        `reward`, `reward_std` (within a question), `iw_bound` and `entropy` in nats, `ess` from 1 to M,
        `frac_unique_selections`, `log_ratio_abs` in nats, `kl` in nats with `ref_logps`, and `selection_recall` where
        a row names gold passages.
    """
    step = {
        "reward": rewards.mean(),
        "reward_std": rewards.std(-1, correction=0).mean(),
        "iw_bound": weights.importance_weighted_bound(log_weights).mean(),
        "ess": weights.effective_sample_size(weights.importance_weights(log_weights)).mean(),
        "entropy": output.entropy.mean(),
        "frac_unique_selections": weights.unique_fraction(output.selections).mean(),
        "log_ratio_abs": log_ratios.abs().mean(),
    }
    if ref_logps is not None:
        step["kl"] = (log_ratios.exp() * (output.selector_logps - ref_logps)).mean()
    metrics = {name: float(value) for name, value in step.items()}
    recalls = [recall for recall in map(_sampled_recall, rows, output.selections.tolist()) if recall is not None]
    return {**metrics, "selection_recall": sum(recalls) / len(recalls)} if recalls else metrics


def _sampled_recall(row: Question, selections: list[Selection]) -> float | None:
    """Mean over the selections of the share of gold passages in them; None where the row names no gold passages."""
    gold = set(row.get("gold_ids") or ())
    if not gold:
        return None
    found = [len(gold & {row["candidates"][i]["id"] for i in selection}) for selection in selections]
    return sum(found) / len(found) / len(gold)
