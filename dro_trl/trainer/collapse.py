"""Seeing the two ways in which training stops teaching the selector anything.

Both raise the effective sample size to M, so it takes the entropy and the share of unique selections to tell them
apart: a *collapsed* selector draws one selection M times, while answers *learnt by heart* make the likelihood the
same whichever of many different selections the generator reads.
"""

from dataclasses import dataclass

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
