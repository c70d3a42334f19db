"""TREC run files, in which rankings go from one retrieval tool to another."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from dro_trl.atomic_write import atomic_path
from dro_trl.text_rows import read_lines
from dro_trl.types import Passage

Run = dict[str, list[tuple[str, float]]]
"""For each query id its ranking: pairs of passage id and score, best first."""


class PassageSource(Protocol):
    """Where passages are found by their ids: an index, or a corpus."""

    def passages(self, ids: Sequence[str]) -> list[Passage]:
        """Return the passages with these ids, in their order."""
        ...


def write_run(path: Path, query_ids: Sequence[str], found: Iterable[Sequence[Passage]], tag: str) -> None:
    """Write rankings as lines of query id, `Q0`, passage id, rank (from 1), score and tag.

    trec_eval reads scores as 32-bit floats and orders equal ones by passage id, so that a score which would not be
    lower there than the one before is written as the next lower 32-bit float. All others are written in full.

    Args:
        path: The file.
        query_ids: One for each ranking.
        found: The rankings, best first; one that is empty leaves no line.
        tag: Name of the system, without white space.

    Raises:
        ValueError: A query is there twice, an id holds white space, which separates the columns, or a score is not
            finite as a 32-bit float.
    """
    check_query_ids(query_ids)
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for query_id, passages in zip(query_ids, found, strict=True):
            scores = _strictly_decreasing([passage["score"] for passage in passages], query_id)
            for rank, (passage, score) in enumerate(zip(passages, scores, strict=True), start=1):
                _check_column(passage["id"], "passage")
                file.write(f"{query_id} Q0 {passage['id']} {rank} {score!r} {tag}\n")


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
    if not path.is_file():
        raise FileNotFoundError(f"no run file {path}")
    scores: dict[str, dict[str, float]] = {}
    for number, line in read_lines(path):
        try:
            query_id, _, passage_id, _, score, _ = line.split()
            ranked = scores.setdefault(query_id, {})
            if passage_id in ranked:
                raise ValueError(f"query {query_id} has passage {passage_id} twice")
            if not math.isfinite(float(score)):
                raise ValueError(f"query {query_id}, passage {passage_id}: the score is {score}")
            ranked[passage_id] = float(score)
        except ValueError as error:
            columns = "query id, Q0, passage id, rank, score, tag"
            said = f"{path}:{number}: not a line of a TREC run file ({error}); expected {columns}"
            raise ValueError(said) from error
    return {query_id: sorted(ranked.items(), key=lambda item: -item[1]) for query_id, ranked in scores.items()}


def candidates_of_run(run: Run, query_ids: Sequence[str], source: PassageSource, k: int) -> list[list[Passage]]:
    """Return the passages that a run ranks first, with their texts and the run's scores.

    Args:
        run: What `read_run` returned.
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


class CorpusPassages:
    """The passages of a corpus by their ids, for a run of an index that is not at hand.

    Args:
        corpus: The passages; read through once for each call of `passages`.
        name: What to call the corpus in errors.
    """

    def __init__(self, corpus: Iterable[Mapping[str, str]], name: str) -> None:
        self._corpus = corpus
        self._name = name

    def passages(self, ids: Sequence[str]) -> list[Passage]:
        """Return the passages with these ids, in their order, with a score of 0.

        Raises:
            ValueError: If the corpus holds no such passage.
        """
        wanted = set(ids)
        found: dict[str, Passage] = {}
        for row in self._corpus:
            if row["id"] in wanted:
                found[row["id"]] = Passage(id=row["id"], title=row["title"], text=row["text"], score=0.0)
        if absent := [id for id in ids if id not in found]:
            raise ValueError(f"{self._name} holds no passage {absent[0]!r} ({len(absent)} of {len(ids)} are missing)")
        return [found[id] for id in ids]


def check_query_ids(query_ids: Sequence[str]) -> None:
    """Check that ids can stand in a run file.

    Raises:
        ValueError: Naming the first that is there twice, empty, or holds white space.
    """
    seen = set()
    for query_id in query_ids:
        _check_column(query_id, "query")
        if query_id in seen:
            raise ValueError(f"two questions have the id {query_id!r}; in a run file each needs its own")
        seen.add(query_id)


def _check_column(value: str, kind: str) -> None:
    if not value or value.split() != [value]:
        raise ValueError(f"{kind} id {value!r} is empty or holds white space, which a run file cannot hold; rename it")
