"""What a step tells about the selector, as numbers to log."""

from collections.abc import Mapping, Sequence

import torch
from accelerate.utils import gather_object
from torch import Tensor

from dro_trl.losses import dro as weights
from dro_trl.losses.loss_types import ScoredSelections
from dro_trl.models.selector_generator import SelectorGeneratorOutput
from dro_trl.types import Question, Selection


class Means:
    """Means over questions (or selections) of named values that come in step by step."""

    def __init__(self) -> None:
        self.totals: dict[str, tuple[float, int]] = {}
        """For each name the sum of its values, and how many there were."""

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Note values, a tensor of any number of them for each name."""
        for name, value in values.items():
            total, count = self.totals.get(name, (0.0, 0))
            self.totals[name] = (total + float(value.double().sum()), count + value.numel())

    def take(self) -> dict[str, float]:
        """Return each name's mean over all processes, and begin anew; every process must call it."""
        records = gather_object([self.totals])
        self.totals = {}
        found: dict[str, float] = {}
        for name in dict.fromkeys(name for record in records for name in record):
            totals, counts = zip(*(record[name] for record in records if name in record), strict=True)
            if sum(counts):
                found[name] = sum(totals) / sum(counts)
        return found


@torch.no_grad()
def step_metrics(
    rows: Sequence[Question],
    output: SelectorGeneratorOutput,
    scored: ScoredSelections,
    log_weights: Tensor,
) -> dict[str, Tensor]:
    """Return what each question of a micro-batch has to tell.

    Args:
        rows: B questions.
        output: What the models make of their selections.
        scored: The selections with their log-probabilities and rewards.
        log_weights: (B, M) unnormalised log-weights in nats.

    Returns:
        `reward`, `reward_std` (within a question), `iw_bound` and `entropy` in nats, `ess` from 1 to M,
        `frac_unique_selections`, `log_ratio_abs` in nats and, where there is a reference or a value head, `kl` in nats
        and `value`, each (B,); and `selection_recall`, that of the selector as it is, for those questions that
        name gold passages.
    """
    rewards, log_ratios = scored.rewards, scored.log_ratios
    step = {
        "reward": rewards.mean(-1),
        "reward_std": rewards.std(-1, correction=0),
        "iw_bound": weights.importance_weighted_bound(log_weights),
        "ess": weights.effective_sample_size(weights.importance_weights(log_weights)),
        "entropy": output.entropy.detach(),
        "frac_unique_selections": weights.unique_fraction(output.selections),
        "log_ratio_abs": log_ratios.abs().mean(-1),
    }
    if scored.ref_logps is not None:
        step["kl"] = (log_ratios.exp() * (scored.logps - scored.ref_logps)).mean(-1)
    if scored.values is not None:
        step["value"] = scored.values.detach()
    shares = weights.importance_weights(log_ratios)  # 1/M on-policy: the recall is that of the selector as it is.
    recalls = [
        float(share @ recall.to(share))
        for share, recall in zip(shares, map(_recalls, rows, output.selections.tolist()), strict=True)
        if recall is not None
    ]
    return {**step, "selection_recall": torch.tensor(recalls)} if recalls else step


def _recalls(row: Question, selections: list[Selection]) -> Tensor | None:
    """The share of gold passages in each selection; None where the row names no gold passages."""
    gold = set(row.get("gold_ids") or ())
    if not gold:
        return None
    found = [len(gold & {row["candidates"][i]["id"] for i in selection}) for selection in selections]
    return torch.tensor(found) / len(gold)
