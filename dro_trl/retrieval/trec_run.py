"""TREC run files, in which rankings go from one retrieval tool to another."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from dro_trl.files.text_rows import parse_number, read_lines, split_words
from dro_trl.files.writing import atomic_path
from dro_trl.types import Passage

Run = dict[str, list[tuple[str, float]]]
"""For each query id its ranking: pairs of passage id and score, best first."""


class Ranked(Protocol):
    """A run, wherever it is kept."""

    def get(self, query_id: str, default: list[tuple[str, float]], /) -> list[tuple[str, float]]:
        """Return the ranking of a query, and `default` where the run does not have it."""
        ...


class PassageSource(Protocol):
    """Where passages are found by their ids: an index, or a corpus."""

    def passages(self, ids: Sequence[str]) -> list[Passage]:
        """Return the passages with these ids, in their order."""
        ...


def write_run(path: Path, query_ids: Sequence[str], found: Iterable[Sequence[Passage]], tag: str) -> None:
    """Write rankings as a run file.

    Args:
        path: The file.
        query_ids: One for each ranking.
        found: The rankings, best first; one that is empty leaves no line.
        tag: Name of the system, without white space.

    Raises:
        ValueError: A query is there twice; or as `run_lines` raises.
    """
    check_query_ids(query_ids)
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for query_id, passages in zip(query_ids, found, strict=True):
            file.write(run_lines(query_id, passages, tag))


def run_lines(query_id: str, passages: Sequence[Passage], tag: str) -> str:
    """Return a ranking as lines of query id, `Q0`, passage id, rank (from 1), score and tag.

    trec_eval reads scores as 32-bit floats and orders equal ones by passage id, so that a score which would not be
    lower there than the one before is written as the next lower 32-bit float. All others are written in full.

    Args:
        query_id: Of the question.
        passages: Best first.
        tag: Name of the system, without white space.

    Raises:
        ValueError: An id is empty or holds white space, which separates the columns, or a score is not finite as a
            32-bit float.
    """
    check_column(query_id, "query")
    scores = _strictly_decreasing([passage["score"] for passage in passages], query_id)
    lines = []
    for rank, (passage, score) in enumerate(zip(passages, scores, strict=True), start=1):
        check_column(passage["id"], "passage")
        lines.append(f"{query_id} Q0 {passage['id']} {rank} {score!r} {tag}\n")
    return "".join(lines)


def _strictly_decreasing(scores: Sequence[float], query_id: str) -> list[float]:
    """Return the scores, those that are not below their predecessor as a 32-bit float lowered until they are."""
    lowered = []
    before = np.float32(np.inf)
    for score in scores:
        with np.errstate(over="ignore"):
            single = np.float32(score)
        if not np.isfinite(single):
            raise ValueError(f"query {query_id}: the score {score} is no finite 32-bit float, as run files are read")
        if single >= before:
            single = np.nextafter(before, np.float32(-np.inf))
            score = float(single)
        lowered.append(float(score))
        before = single
    return lowered


def read_run(path: Path) -> Run:
    """Read a run file, or one compressed with gzip.

    Passages are put in the order of their scores, as trec_eval does, whatever their rank says; equal scores stay in
    the order of the file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not a run file, ranks a passage twice for one query, or holds a score that is no number.
    """
    scores: dict[str, dict[str, float]] = {}
    for where, query_id, passage_id, score in read_run_lines(path):
        ranked = scores.setdefault(query_id, {})
        if passage_id in ranked:
            raise twice(where, query_id, passage_id)
        ranked[passage_id] = score
    return {query_id: sorted(ranked.items(), key=lambda item: -item[1]) for query_id, ranked in scores.items()}


def read_run_lines(path: Path) -> Iterator[tuple[str, str, str, float]]:
    """Yield the lines of a run file: their place (`"bm25.run.txt:12"`), query id, passage id and score.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not a run file, or holds a score that is no number.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no run file {path}")
    for number, line in read_lines(path):
        where = f"{path}:{number}"
        if not (columns := split_words(line)):
            continue
        try:
            query_id, _, passage_id, _, text, _ = columns
            score = parse_number(text)
        except ValueError as error:
            raise _no_line(where, str(error)) from error
        yield where, query_id, passage_id, score


def twice(where: str, query_id: str, passage_id: str) -> ValueError:
    """Return the error that a run ranks a passage twice for one query."""
    return _no_line(where, f"query {query_id} has passage {passage_id} twice")


def _no_line(where: str, why: str) -> ValueError:
    columns = "query id, Q0, passage id, rank, score, tag"
    return ValueError(f"{where}: not a line of a TREC run file ({why}); expected {columns}")


def candidates_of_run(run: Ranked, query_ids: Sequence[str], source: PassageSource, k: int) -> list[list[Passage]]:
    """Return the passages that a run ranks first, with their texts and the run's scores.

    Args:
        run: What `read_run` returned, or a `StoredRun`.
        query_ids: The questions wanted, in order; of one that the run does not have nothing is found.
        source: Where the texts are.
        k: Passages wanted for each, at least 1.

    Raises:
        ValueError: A query id is there twice, or `source` does not have a passage.
    """
    check_query_ids(query_ids)
    rankings = [run.get(query_id, [])[:k] for query_id in query_ids]
    ids = list(dict.fromkeys(passage_id for ranking in rankings for passage_id, _ in ranking))
    passages = dict(zip(ids, source.passages(ids), strict=True))
    return [[{**passages[passage_id], "score": score} for passage_id, score in ranking] for ranking in rankings]


def check_query_ids(query_ids: Sequence[str]) -> None:
    """Check that ids can stand in a run file.

    Raises:
        ValueError: Naming the first that is there twice, empty, or holds white space.
    """
    seen = set()
    for query_id in query_ids:
        check_column(query_id, "query")
        if query_id in seen:
            raise ValueError(f"two questions have the id {query_id!r}; in a run file each needs its own")
        seen.add(query_id)


def check_column(value: str, kind: str) -> None:
    """Check that an id can stand in a run file.

    Raises:
        ValueError: It is empty or holds white space.
    """
    if not value or value.split() != [value]:
        raise ValueError(f"{kind} id {value!r} is empty or holds white space, which a run file cannot hold; rename it")
