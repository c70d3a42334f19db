"""Questions grouped by what a column of theirs holds."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dro_trl.names import nearest

MOST_GROUPS = 20
"""More values than a table shows at a glance: such a column tells questions apart, not kinds of them."""

Value = str | int | float | bool | None
"""What a column holds of a question; None where it holds nothing."""


@dataclass(frozen=True)
class Column:
    """A column by which questions are grouped."""

    name: str
    values: list[Value]
    """One a question."""

    def groups(self) -> list[tuple[Value, list[int]]]:
        """Return each value with the numbers of its questions: numbers ascending, then texts by the alphabet."""
        found: dict[str, tuple[Value, list[int]]] = {}
        for number, value in enumerate(self.values):
            # As JSON, 1, true and "1" are three values.
            found.setdefault(json.dumps(value), (value, []))[1].append(number)
        return sorted(found.values(), key=lambda group: (group[0] is None, isinstance(group[0], str), group[0]))


def column_of(rows: Sequence[Mapping[str, Any]], name: str) -> Column:
    """Return a column of rows to group them by.

    Args:
        rows: The questions; in one that lacks the field, it holds nothing.
        name: Of the column.

    Raises:
        ValueError: If no row has the column, it holds lists or objects, or more values than `MOST_GROUPS`; said of
            `questions`, to which `naming_sources` adds where they are from.
    """
    columns = dict.fromkeys(column for row in rows for column in row)
    if name not in columns:
        near = nearest(name, columns)
        hint = f" (did you mean '{near}'?)" if near else ""
        raise ValueError(f"questions: column '{name}' is missing{hint}; {_there_are(columns)}")
    values = [_value(row.get(name), name, columns) for row in rows]
    column = Column(name, values)
    if (number := len(column.groups())) > MOST_GROUPS:
        raise ValueError(
            f"questions: column '{name}' has {number:,} values in {len(rows):,} rows, and groups are {MOST_GROUPS} at "
            f"most; name one with fewer; {_there_are(columns)}"
        )
    return column


def _value(found: object, name: str, columns: Mapping[str, None]) -> Value:
    if isinstance(found, list | Mapping):
        kind = "a list" if isinstance(found, list) else "an object"
        raise ValueError(
            f"questions: column '{name}' holds {kind}; rows are grouped by text, a number, true or false; "
            f"{_there_are(columns)}"
        )
    if found is None or isinstance(found, str | int) or (isinstance(found, float) and math.isfinite(found)):
        return found
    return str(found)  # A date, or a number that JSON does not have.


def _there_are(columns: Mapping[str, None]) -> str:
    return f"the columns are {', '.join(sorted(columns))}"
