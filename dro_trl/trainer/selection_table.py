"""The table of sampled selections that is printed now and then during training."""

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dro_trl.lm.prompts import format_selection


def print_selections(samples: list[dict[str, Any]], step: int, console: Console | None = None) -> None:
    """Print, for each question, its distinct selections with their counts, rewards and summed weights.

    Args:
        samples: Per question `row`, `selections` (M lists of indices), `rewards` (M) and `weights` (M).
        step: Shown in the title.
        console: Where to print; standard output where None.
    """
    table = Table(title=f"Sampled selections at step {step}", show_lines=True)
    for name in ("Question", "Selection", "Gold", "Drawn"):
        table.add_column(name, overflow="fold")
    for name in ("Reward", "Weight"):
        table.add_column(name, justify="right")
    for sample in samples:
        row = sample["row"]
        gold = set(row.get("gold_ids") or ())
        distinct: dict[tuple[int, ...], list[int]] = {}
        for m, selection in enumerate(sample["selections"]):
            distinct.setdefault(tuple(selection), []).append(m)
        ranked = sorted(distinct.items(), key=lambda item: -sum(sample["weights"][m] for m in item[1]))
        cells = [
            (
                format_selection(list(selection)),
                f"{len(gold & {row['candidates'][i]['id'] for i in selection})}/{len(gold)}" if gold else "-",
                str(len(members)),
                f"{sample['rewards'][members[0]]:.2f}",
                f"{sum(sample['weights'][m] for m in members):.2f}",
            )
            for selection, members in ranked
        ]
        table.add_row(escape(row["question"]), *("\n".join(column) for column in zip(*cells, strict=True)))
    (console or Console()).print(table)
