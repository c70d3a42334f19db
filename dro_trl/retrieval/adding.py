"""Candidates added to any number of questions: found batch by batch, and written as they come."""

import json
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any, Protocol

from rich.progress import MofNCompleteColumn

from dro_trl.files.unfinished import Unfinished
from dro_trl.metrics import recall
from dro_trl.retrieval.base import Retriever
from dro_trl.retrieval.gold import AnswerMatch, mark_answers, missed_gold, with_gold, without
from dro_trl.retrieval.progress import batched, progress_bar
from dro_trl.retrieval.questions import QuestionRows, query_id
from dro_trl.retrieval.stored_run import StoredRun
from dro_trl.retrieval.trec_run import PassageSource, candidates_of_run, run_lines
from dro_trl.types import Passage

CUTOFFS = (1, 5, 20)
_SECONDS_BETWEEN_RECORDS = 1.0
_ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class Adding:
    """What is added."""

    k: int
    """Candidates for each question, at least 1."""
    add_gold: bool = False
    """Whether gold passages that were missed take the places of the last."""
    exclude_own: bool = False
    """Whether the passage with a question's id is left out."""
    answer_match: AnswerMatch | None = None
    """Where a row names no gold passages, when a candidate is one; None where none is."""

    def excluded(self, row: dict[str, Any], id: str) -> set[str]:
        """Return the ids of passages that are left out of a row's hits."""
        return {*(row.get("excluded_ids") or []), *([id] if self.exclude_own else [])}


@dataclass
class Checked:
    """What is known of the rows before anything is found."""

    num_rows: int = 0
    most_excluded: int = 0
    """How many passages are to be left out of a row's hits, at most."""


@dataclass
class Tally:
    """What was added so far."""

    candidates: int = 0
    found: int = 0
    """Passages that were found and not left out."""
    added: int = 0
    """Gold passages that were not found."""
    left_out: int = 0
    """Questions that found a passage which was left out."""
    marked: int = 0
    """Questions without gold passages that have some now."""
    empty: int = 0
    """Questions for which nothing was found."""
    judged: int = 0
    """Questions with gold passages."""
    recalls: dict[str, float] = field(default_factory=dict)
    """Sums over them, by their names."""


def check_rows(rows: QuestionRows, adding: Adding, source: PassageSource | None = None) -> Checked:
    """Read all rows once.

    Args:
        rows: The rows.
        adding: What is to be added.
        source: Checked to have all gold passages, if given.

    Raises:
        ValueError: A row is faulty, there is none, or `source` does not have a gold passage.
    """
    checked = Checked()
    for batch in batched(enumerate(rows, start=1), _ROWS_AT_ONCE):
        for number, row in batch:
            checked.num_rows = number
            checked.most_excluded = max(checked.most_excluded, len(adding.excluded(row, query_id(row, number))))
        if source is not None:
            source.passages([id for _, row in batch for id in missed_gold(row, [])])
    if not checked.num_rows:
        raise ValueError(f"{rows.path}: no rows; at least one question is needed")
    return checked


def gold_ids(rows: QuestionRows) -> Iterator[str]:
    """Yield the ids of all gold passages."""
    return (id for row in rows for id in row.get("gold_ids") or [])


class Finder(Protocol):
    """Finds passages for any number of questions."""

    def __call__(self, rows: Iterable[tuple[str, dict[str, Any]]], wanted: int) -> Iterator[list[list[Passage]]]:
        """Yield the hits of the next rows, which come with their ids."""
        ...


def by_bm25(retriever: Retriever) -> Finder:
    """Return what finds passages in an index."""
    return lambda rows, wanted: retriever.retrieve_batches((row["question"] for _, row in rows), wanted)


def by_run(run: StoredRun, source: PassageSource) -> Finder:
    """Return what finds the passages that a run ranks first."""

    def find(rows: Iterable[tuple[str, dict[str, Any]]], wanted: int) -> Iterator[list[list[Passage]]]:
        for batch in batched((id for id, _ in rows), _ROWS_AT_ONCE):
            yield candidates_of_run(run, batch, source, wanted)

    return find


def add_candidates(
    rows: QuestionRows, checked: Checked, adding: Adding, find: Finder, source: PassageSource, files: Unfinished
) -> Tally:
    """Write the rows with their candidates, behind those that are written already, and what was found as a run file.

    Args:
        rows: The rows.
        checked: What `check_rows` returned.
        adding: What is added.
        find: Finds the hits.
        source: Where gold passages are.
        files: `"rows"` and, if wanted, `"run"`.

    Returns:
        What was added, that of the rows which were written already included.

    Raises:
        ValueError: A passage is not in `source`, or cannot stand in a run file.
        OSError: A file cannot be written.
    """
    tally, done = Tally(**files.state), files.done
    waiting: deque[tuple[str, dict[str, Any]]] = deque()

    def ahead() -> Iterator[tuple[str, dict[str, Any]]]:
        for number, row in islice(enumerate(rows, start=1), done, None):
            waiting.append((query_id(row, number), row))
            yield waiting[-1]

    kept_at = time.monotonic()
    # As many more as may have to be left out.
    hits = find(ahead(), adding.k + checked.most_excluded)
    with progress_bar(MofNCompleteColumn(), enabled=checked.num_rows > _ROWS_AT_ONCE) as bar:
        task = bar.add_task("retrieving", total=checked.num_rows, completed=done)
        for batch in hits:
            of_batch = [waiting.popleft() for _ in batch]
            for name, text in _lines(of_batch, batch, adding, source, tally, "run" in files.files).items():
                files.append(name, text)
            done += len(batch)
            bar.update(task, completed=done)
            if time.monotonic() - kept_at >= _SECONDS_BETWEEN_RECORDS:
                files.keep(done, asdict(tally))
                kept_at = time.monotonic()
    files.keep(done, asdict(tally))
    return tally


def _lines(
    rows: list[tuple[str, dict[str, Any]]],
    hits: list[list[Passage]],
    adding: Adding,
    source: PassageSource,
    tally: Tally,
    with_run: bool,
) -> dict[str, str]:
    """Return what is written for some rows, by the names of the files."""
    found = []
    for (id, row), passages in zip(rows, hits, strict=True):
        kept = without(passages, adding.excluded(row, id))
        tally.left_out += len(kept) != len(passages)
        found.append(kept[: adding.k])
    run = [run_lines(id, kept, "dro-trl") for (id, _), kept in zip(rows, found, strict=True)] if with_run else []
    missed = [missed_gold(row, kept) if adding.add_gold else [] for (_, row), kept in zip(rows, found, strict=True)]
    ids = list(dict.fromkeys(id for one in missed for id in one))
    gold = dict(zip(ids, source.passages(ids), strict=True)) if ids else {}
    lines = []
    for (_, row), kept, absent in zip(rows, found, missed, strict=True):
        row["candidates"] = with_gold(kept, [gold[id] for id in absent], row.get("gold_ids") or [], adding.k)
        if adding.answer_match is not None:
            tally.marked += mark_answers(row, adding.answer_match)
        _count(tally, row, kept, len(absent), adding.k)
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    return {"rows": "".join(lines), **({"run": "".join(run)} if with_run else {})}


def _count(tally: Tally, row: dict[str, Any], found: list[Passage], added: int, k: int) -> None:
    tally.candidates += len(row["candidates"])
    tally.found += len(found)
    tally.added += added
    tally.empty += not found
    if row.get("gold_ids"):
        tally.judged += 1
        ranked = [passage["id"] for passage in found]
        for cutoff in CUTOFFS:
            if cutoff <= k:
                name = f"recall@{cutoff}"
                tally.recalls[name] = tally.recalls.get(name, 0) + recall(row["gold_ids"], ranked[:cutoff])


def figures(tally: Tally) -> dict[str, float]:
    """Return the recall of gold passages in what was found."""
    return {name: total / tally.judged for name, total in tally.recalls.items()}
