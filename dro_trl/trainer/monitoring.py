"""What a step tells about the selector, as numbers to log."""

import logging
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn
from transformers import TrainerState

from dro_trl.losses import dro as weights
from dro_trl.losses.base import ScoredSelections
from dro_trl.metrics import recall
from dro_trl.models.selector_generator import SelectorGeneratorOutput
from dro_trl.trainer.dro_config import DROConfig
from dro_trl.trainer.selection_table import Sample, log_selections, print_selections
from dro_trl.types import Question, Selection

logger = logging.getLogger(__name__)


COLLAPSED = (
    "the selector has collapsed: over the last {steps} steps it drew {unique:.1f} distinct selections of "
    "{num_selections} (entropy {entropy:.2f} nats, ESS {ess:.1f}), so its updates vanish, and what it selects still "
    "misses{quality}. Lower learning_rate, or set entropy_coef (0.01 to 0.1) or kl_coef, and start again from a "
    "checkpoint before this"
)
MEMORISED = (
    "the generator no longer needs the passages: over the last {steps} steps the likelihood was the same for all of "
    "{unique:.1f} distinct selections of {num_selections} (ESS {ess:.1f}), so the selector gets no signal{quality}. "
    "Train on fewer epochs or more questions, lower generator_learning_rate, or set train_generator=False"
)


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
        `frac_unique_selections` (where selections were drawn without replacement, both as M independent draws would
        have them), `log_ratio_abs` in nats and, where there is a reference or a value head, `kl` in nats
        and `value`, each (B,); and, that of the selector as it is, for those questions that name gold passages
        `selection_recall`, and for those that name several `selection_recall/1` of the first, `/2` of the second ….
    """
    rewards, log_ratios, drawn = scored.rewards, scored.log_ratios, scored.shares
    mean, weight = (drawn * rewards).sum(-1, keepdim=True), weights.importance_weights(log_weights)
    shares = weights.importance_weights(log_ratios)  # As drawn, on-policy; else those of the selector as it is.
    step = {
        "reward": mean[:, 0],
        "reward_std": (drawn * (rewards - mean).square()).sum(-1).sqrt(),
        "iw_bound": importance_weighted_bound(log_weights),
        "ess": effective_sample_size(weight),
        "entropy": output.entropy.detach(),
        "frac_unique_selections": unique_fraction(output.selections),
        "log_ratio_abs": scored.policy_log_ratios.abs().mean(-1),
    }
    if scored.old_logps is not None:
        step |= {
            "ess": effective_sample_size(weight, drawn),
            "entropy": -(shares * scored.logps).sum(-1),
            "frac_unique_selections": expected_unique_fraction(output.selections, drawn),
        }
    if scored.ref_logps is not None:
        step["kl"] = (log_ratios.exp() * (scored.logps - scored.ref_logps)).mean(-1)
    if scored.values is not None:
        step["value"] = scored.values.detach()
    return step | _recalls(rows, output.selections.tolist(), shares)


def _recalls(rows: Sequence[Question], selections: list[list[Selection]], shares: Tensor) -> dict[str, Tensor]:
    """The share of gold passages in what is selected, and how often each of several is, a value a question."""
    found = defaultdict[str, list[float]](list)
    for row, selected, share in zip(rows, selections, shares.double().cpu(), strict=True):
        gold = row.get("gold_ids")
        if not gold:
            continue
        read = [[row["candidates"][i]["id"] for i in selection] for selection in selected]
        sought = {"selection_recall": gold}
        if len(gold) > 1:
            sought |= {f"selection_recall/{number}": [passage] for number, passage in enumerate(gold, start=1)}
        for name, passages in sought.items():
            found[name].append(float(share @ torch.tensor([recall(passages, ids) for ids in read], dtype=share.dtype)))
    return {name: torch.tensor(values) for name, values in found.items()}


def effective_sample_size(weights: Tensor, drawn: Tensor | None = None) -> Tensor:
    """Return `1 / sum_m w_m^2`, (B,): from 1 (one selection has all the weight) to M (all weigh the same).

    Args:
        weights: (B, M), each row summing to 1.
        drawn: (B, M), likewise: what selections weigh that were not drawn independently. The size is then
            `M / sum_m (w_m^2 / drawn_m)`: M where the rewards change nothing.
    """
    if drawn is None:
        return 1.0 / weights.square().sum(-1)
    tiny = torch.finfo(weights.dtype).tiny
    return weights.shape[-1] / (weights.square() / drawn.clamp(min=tiny)).sum(-1)


def importance_weighted_bound(log_weights: Tensor) -> Tensor:
    """Return `log (1/M) sum_m exp(log w_m)`, (B,) nats: a lower bound on log p(y|x) (Burda et al., 2016)."""
    return log_weights.logsumexp(-1) - math.log(log_weights.shape[-1])


def unique_fraction(selections: Tensor) -> Tensor:
    """Return the share of distinct ordered selections among the M of each row, (B,), from 1/M to 1."""
    same = (selections[:, :, None, :] == selections[:, None, :, :]).all(-1)
    first = same.tril(diagonal=-1).any(-1).logical_not()
    return first.float().mean(-1)


def expected_unique_fraction(selections: Tensor, drawn: Tensor) -> Tensor:
    """Return the share of distinct ones that M independent draws from these selections would have, (B,).

    Args:
        selections: (B, M, K).
        drawn: (B, M) what they weigh, each row summing to 1; of copies each its part.
    """
    same = (selections[:, :, None, :] == selections[:, None, :, :]).all(-1)
    together = (same * drawn[:, None, :]).sum(-1).clamp(max=1.0)
    found = (1 - (1 - together) ** drawn.shape[-1]) / same.sum(-1)
    return found.sum(-1) / drawn.shape[-1]


@dataclass
class CollapseMonitor:
    """Watches running means of what a step logs, and says once for each trap that it was met.

    Args:
        num_selections: M.
        window: Steps over which the means are taken.
    """

    num_selections: int
    window: int = 20

    def __post_init__(self) -> None:
        self._records: list[dict[str, float]] = []
        self._said: set[str] = set()

    def update(self, metrics: dict[str, float]) -> str | None:
        """Add a step's `ess`, `entropy`, `frac_unique_selections`, and `selection_recall` where known.

        Returns:
            A warning, the first time that a trap is recognised.
        """
        self._records = [*self._records, metrics][-self.window :]
        if len(self._records) < self.window:
            return None
        trap = self.diagnose()
        if trap is None or trap in self._said:
            return None
        self._said.add(trap)
        recall = self._mean("selection_recall")
        return trap.format(
            steps=self.window,
            unique=self._mean("frac_unique_selections") * self.num_selections,
            num_selections=self.num_selections,
            entropy=self._mean("entropy"),
            ess=self._mean("ess"),
            quality="" if recall != recall else f" (recall of the sampled selections {recall:.2f})",
        )

    def diagnose(self) -> str | None:
        """Return `COLLAPSED`, `MEMORISED`, or None for the window's means.

        A selector that draws the same few selections because it has learnt which are right is no trap: with gold
        passages known, a recall of 0.9 and more is not reported.
        """
        ess, unique = self._mean("ess") / self.num_selections, self._mean("frac_unique_selections")
        if not ess >= 0.95 or self._mean("selection_recall") >= 0.9:  # Not known (NaN) is not high.
            return None
        if unique <= 1.5 / self.num_selections:
            return COLLAPSED
        return MEMORISED if unique >= 0.5 else None

    def _mean(self, name: str) -> float:
        values = [record[name] for record in self._records if name in record]
        return sum(values) / len(values) if values else float("nan")


class TokenCounter:
    """Counts what models read while training, padding included where there is any: a shared prompt counts once.

    A pass that is made again in the backward pass, as `scoring_token_budget` has it, counts again.

    Args:
        models: Causal LMs; one that is given twice is counted once.
    """

    def __init__(self, models: Iterable[nn.Module]) -> None:
        self.count = 0
        """Tokens read by this process since the last `take`."""
        for model in {id(model): model for model in models}.values():
            model.register_forward_pre_hook(self._note, with_kwargs=True)

    def _note(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if model.training:
            ids: Tensor | None = args[0] if args else kwargs.get("input_ids")
            self.count += ids.numel() if ids is not None else kwargs["inputs_embeds"].shape[:-1].numel()

    def take(self) -> int:
        """Return the count of all processes together, and begin anew; every process must call it."""
        counts: list[int] = gather_object([self.count])
        self.count = 0
        return sum(counts)


class Monitor:
    """What a run has recorded since its last log: means, tokens read, selections to show, signs of a collapse.

    Args:
        args: Options.
        models: Those whose tokens are counted.
    """

    def __init__(self, args: DROConfig, models: Iterable[nn.Module]) -> None:
        self.args = args
        self.collapse = CollapseMonitor(args.num_selections)
        self.tokens = TokenCounter(models)
        self.train, self.eval = Means(), Means()
        self._drawn: list[Sample] = []

    def watch(
        self,
        rows: Sequence[Question],
        output: SelectorGeneratorOutput,
        rewards: Tensor,
        weight: Tensor,
        step: Mapping[str, Tensor],
    ) -> None:
        """Warn of a collapse, and keep the selections for the table.

        Args:
            rows: B questions.
            output: What the models make of their selections.
            rewards: (B, M).
            weight: (B, M), what each selection weighs.
            step: What `step_metrics` returned.
        """
        if warning := self.collapse.update({name: float(values.mean()) for name, values in step.items()}):
            logger.warning(warning)
        if self.args.log_selections:
            columns = (output.selections.tolist(), rewards.tolist(), weight.tolist())
            self._drawn = [
                {"row": row, "selections": z, "rewards": r, "weights": w}
                for row, z, r, w in zip(rows, *columns, strict=True)
            ]

    def take(self, state: TrainerState) -> dict[str, float]:
        """Return what training has recorded since the last time, and add up tokens; every process must call it."""
        means = self.train.take()
        state.num_input_tokens_seen += self.tokens.take()
        counts = {"num_selections": self.args.num_selections, "num_tokens": state.num_input_tokens_seen}
        return {**means, **counts} if means else {}

    def show(self, step: int) -> None:
        """Print the table of the selections that were kept, if there are any, and log it to trackers."""
        if self._drawn:
            print_selections(self._drawn[: self.args.num_selections_to_print], step)
            log_selections(self._drawn, step, self.args.report_to or ())
            self._drawn = []

    def pending(self) -> dict[str, Any]:
        """Return this process's part of what a checkpoint holds."""
        return {"means": self.train.totals, "tokens": self.tokens.count}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up what `pending` returned."""
        self.train.totals, self.tokens.count = state["means"], state["tokens"]
