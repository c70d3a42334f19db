"""What a row of a dataset must be, and the error that says where one is not."""

import json
import sys
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from dro_trl.names import nearest

COLUMNS = ("question", "answers", "candidates", "gold_ids")
_FAULTS_SHOWN = 10


@dataclass(frozen=True)
class RowFault:
    """Why one row was refused."""

    row: int
    """Where the row stands, counted from 1: the line of a JSON Lines file, the row of any other source."""
    reason: str
    """The field at fault, what was found there and what is expected."""


def check_row(row: object, *, require_candidates: bool = True) -> None:
    """Check one row against the schema of `dro_trl.types.Question`.

    Args:
        row: What the source holds.
        require_candidates: Whether the row must have `candidates`; where it has them they are checked anyway.

    Raises:
        ValueError: Naming the first field at fault, what was found there and what is expected.
    """
    if not isinstance(row, Mapping):
        raise ValueError(f"found {_shown(row)}; expected a JSON object with the fields {', '.join(COLUMNS)}")
    for field in required_columns(require_candidates):
        if row.get(field) is None:
            raise ValueError(f"field '{field}' {_absent(field, row)}")
    check_text(row["question"], "question")
    _check_answers(row["answers"])
    if row.get("candidates") is not None:
        _check_candidates(row["candidates"])
    if row.get("gold_ids") is not None:
        _check_gold_ids(row["gold_ids"])


def check_columns(columns: Collection[str], source: str, *, require_candidates: bool = True) -> None:
    """Check that no required column is missing altogether.

    Args:
        columns: The columns there are.
        source: The file or dataset they are of, for the error.
        require_candidates: Whether `candidates` is required.

    Raises:
        ValueError: Naming `source`, the missing column, the nearest column there is, and all that there are.
    """
    for column in required_columns(require_candidates):
        if column not in columns:
            raise ValueError(
                f"{source}: column '{column}' is missing{_hint(column, columns)}; "
                f"the columns are {', '.join(sorted(columns)) or 'none'}"
                + ("; add it with `dro-trl retrieve`" if column == "candidates" else "")
            )


def describe_faults(faults: list[RowFault], source: str, num_rows: int) -> str:
    """Say in one text which rows are faulty and why: all of the count, the first ten of the reasons.

    Args:
        faults: At least one.
        source: The file or dataset.
        num_rows: How many rows were read there.
    """
    if len(faults) == 1:
        return f"{source}, row {faults[0].row}: {faults[0].reason}"
    lines = [f"{source}: {len(faults)} of {num_rows} rows are faulty"]
    lines += [f"  row {fault.row}: {fault.reason}" for fault in faults[:_FAULTS_SHOWN]]
    if len(faults) > _FAULTS_SHOWN:
        lines.append(f"  and {len(faults) - _FAULTS_SHOWN} more")
    return "\n".join(lines)


def required_columns(require_candidates: bool) -> tuple[str, ...]:
    """Return the names of the columns that a dataset must have."""
    return COLUMNS[:3] if require_candidates else COLUMNS[:2]


def check_text(value: object, field: str, *, may_be_empty: bool = False) -> str:
    """Return `value` where it is text that is more than white space.

    Args:
        value: What the source holds in `field`.
        field: Its name, for the error.
        may_be_empty: Whether empty text will do.

    Raises:
        ValueError: It is something else, or holds half a surrogate pair, which no UTF-8 file can.
    """
    if not isinstance(value, str):
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        hint = f", {_shown(str(value))} with quotes" if is_number else ""
        raise ValueError(f"field '{field}': found {_shown(value)}; expected text{hint}")
    if not may_be_empty and not value.strip():
        raise ValueError(f"field '{field}': found empty text; expected text that is more than white space")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"field '{field}': found text that is not valid Unicode ({error}); expected text") from error
    return value


def check_list(value: object, field: str, expected: str) -> list[Any]:
    """Return `value` where it is a list.

    Args:
        value: What the source holds in `field`.
        field: Its name, for the error.
        expected: What should be there, for the error.

    Raises:
        ValueError: It is something else.
    """
    if not isinstance(value, list):
        hint = "; it is JSON in a string: parse it first" if _is_json_list(value) else ""
        raise ValueError(f"field '{field}': found {_shown(value)}; expected {expected}{hint}")
    return value


def _is_json_list(value: object) -> bool:
    try:
        return isinstance(value, str) and isinstance(json.loads(value), list)
    except (ValueError, RecursionError):
        return False


def _check_answers(value: object) -> None:
    answers = check_list(value, "answers", 'a list of texts, such as ["Paris", "City of Paris"]')
    if not answers:
        raise ValueError("field 'answers': found an empty list; expected at least one answer")
    for number, answer in enumerate(answers):
        check_text(answer, f"answers[{number}]")


def _check_gold_ids(value: object) -> None:
    seen: set[str] = set()
    for number, gold_id in enumerate(check_list(value, "gold_ids", 'a list of passage ids, such as ["17", "4"]')):
        check_text(gold_id, f"gold_ids[{number}]")
        _check_new(str(gold_id), seen, f"gold_ids[{number}]")


def _check_candidates(value: object) -> None:
    candidates = check_list(value, "candidates", "a list of objects with the fields id, title, text, score")
    if not candidates:
        raise ValueError("field 'candidates': found an empty list; expected at least one passage")
    seen: set[str] = set()
    for number, candidate in enumerate(candidates):
        field = f"candidates[{number}]"
        if not isinstance(candidate, Mapping):
            raise ValueError(
                f"field '{field}': found {_shown(candidate)}; expected an object with id, title, text, score"
            )
        for key in ("id", "title", "text", "score"):
            if candidate.get(key) is None:
                raise ValueError(f"field '{field}.{key}' {_absent(key, candidate)}")
        check_text(candidate["title"], f"{field}.title", may_be_empty=True)
        check_text(candidate["text"], f"{field}.text")
        score = candidate["score"]
        if not isinstance(score, int | float) or isinstance(score, bool) or not abs(score) <= sys.float_info.max:
            raise ValueError(f"field '{field}.score': found {_shown(score)}; expected a finite number")
        _check_new(check_text(candidate["id"], f"{field}.id"), seen, f"{field}.id")


def _check_new(identifier: str, seen: set[str], field: str) -> None:
    if identifier in seen:
        raise ValueError(f"field '{field}': found {_shown(identifier)} a second time; expected ids that differ")
    seen.add(identifier)


def _absent(name: str, row: Mapping[Any, object]) -> str:
    """Say that a field is missing, or there and null, and what to do."""
    if name not in row or _hint(name, row):
        return f"is missing{_hint(name, row)}"
    wanted = {"score": "a number", "title": 'text, or "" where there is none'}.get(name, "a value")
    return f"is null; expected {wanted}"


def _hint(name: str, present: Iterable[str]) -> str:
    """Point to the column that was probably meant."""
    others = [other for other in present if isinstance(other, str) and other not in (*COLUMNS, name)]
    near = nearest(name, others)
    return f"; did you mean '{near}'? Rename it to '{name}'" if near else ""


def _shown(value: object) -> str:
    """Show a value as JSON would, cut to a readable length."""
    if value is None:
        return "nothing"
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        text = f"{type(value).__name__} {value!r}"
    return text if len(text) <= 60 else f"{text[:57]}..."
