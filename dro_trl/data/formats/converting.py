"""What the converters of public datasets share: the question they make of a raw row, and the look-up in a corpus."""

import hashlib
import pickle
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from dro_trl.data.formats.base import SourceQuestion, TitledText
from dro_trl.data.schema import RowFault, check_text


@dataclass
class PreparedQuestions:
    """How many rows were converted, and what was left out and why."""

    num_rows: int = 0
    """How many rows were read."""
    num_kept: int = 0
    """How many of them were converted."""
    refused: list[RowFault] = field(default_factory=list)
    """All rows left out, in the order of the source."""
    absent_titles: int = 0
    """How many gold titles, counted once in each row, the corpus does not have."""
    absent_ids: int = 0
    """How many gold ids the corpus does not have."""
    gold_by_text: int = 0
    """How many gold passages have the very text that the row gives for their title."""
    gold_by_title: int = 0
    """How many are only the corpus's first passage of that title, with another text."""
    without_gold: int = 0
    """How many rows were kept without gold ids."""
    without_answers: int = 0
    """How many rows were kept without answers."""
    repeated_candidates: int = 0
    """How many candidates were left out because the same passage stands before them in the same row."""


class _Corpus:
    """What the questions want of a corpus; the rest is not kept, since a corpus may be of any size, nor are texts."""

    def __init__(self, passages: Iterable[Mapping[str, str]], questions: Iterable[SourceQuestion]) -> None:
        ids: set[str] = set()
        titles: set[str] = set()
        for question in questions:
            ids.update(question.gold_ids)
            titles.update(passage.title for passage in [*question.gold_passages, *(question.candidates or [])])
        self.ids: set[str] = set()
        self.by_title: dict[str, list[tuple[str, bytes]]] = {}
        for passage in passages:
            if passage["id"] in ids:
                self.ids.add(passage["id"])
            if passage["title"] in titles:
                self.by_title.setdefault(passage["title"], []).append((passage["id"], _digest(passage["text"])))

    def find(self, passage: TitledText) -> tuple[str, bool]:
        """Return the id of a passage that has the title, and whether its text is the one wanted."""
        entries, digest = self.by_title[passage.title], _digest(passage.text)
        same = [passage_id for passage_id, candidate in entries if candidate == digest]
        return (same[0], True) if same else (entries[0][0], False)


def prepare_questions(
    raw_rows: Iterable[tuple[int, object]],
    convert: Callable[[dict[str, Any]], SourceQuestion],
    keep: Callable[[dict[str, Any]], object],
    *,
    source: str,
    corpus: Iterable[Mapping[str, str]] | None = None,
    gold: bool = True,
    limit: int | None = None,
    folder: Path | None = None,
) -> PreparedQuestions:
    """Convert raw rows, and look up what they quote in a corpus.

    Where several passages of the corpus have a gold title, the one with the text that the row gives for it is taken,
    white space aside, and else the first. Gold ids of the source are checked to be in the corpus, where there is one.
    Until all are read, the rows stand in a temporary file; of a corpus only the wanted ids and titles are held.

    Args:
        raw_rows: As `SourceFormat.read` yields them.
        convert: As `SourceFormat.convert`.
        keep: Takes each converted row, in their order: `id`, `question`, and where the source has them `answers`,
            `gold_ids`, `excluded_ids` and `candidates`.
        source: What the rows are of, for errors.
        corpus: Passages with `id`, `title` and `text`, read once.
        gold: Whether gold passages are wanted.
        limit: Read only the first so many rows.
        folder: Of the temporary file, which has no name; the system's if None.

    Returns:
        The counts, and the rows that could not be converted with the reasons.

    Raises:
        ValueError: There are no rows; or a gold passage has to be looked up by its title and there is no corpus.
    """
    prepared = PreparedQuestions()
    with tempfile.TemporaryFile(dir=folder) as spool:
        for number, row in raw_rows:
            if limit is not None and prepared.num_rows == limit:
                break
            prepared.num_rows += 1
            try:
                question = _question(row, convert, gold)
            except ValueError as error:
                prepared.refused.append(RowFault(number, str(error)))
                continue
            if corpus is None:
                _check_titles_unneeded(number, question, source)
            pickle.dump((number, question), spool)
        if not prepared.num_rows:
            raise ValueError(f"{source}: holds no rows")
        known = None if corpus is None else _Corpus(corpus, (question for _, question in _spooled(spool)))
        for number, question in _spooled(spool):
            try:
                row = _row(number, question, known, prepared)
            except ValueError as error:
                prepared.refused.append(RowFault(number, str(error)))
                continue
            prepared.num_kept += 1
            keep(row)
    prepared.refused.sort(key=lambda fault: fault.row)
    return prepared


def _spooled(spool: IO[bytes]) -> Iterator[tuple[int, SourceQuestion]]:
    """Read what was dumped into a file, from its beginning."""
    end = spool.seek(0, 2)
    spool.seek(0)
    while spool.tell() < end:
        yield pickle.load(spool)


def quoted_id(passage: TitledText) -> str:
    """Return an id for a passage that has none: a hash of its title and text, so that equal passages share it."""
    return hashlib.sha256(f"{passage.title}\n{_squeezed(passage.text)}".encode()).hexdigest()[:16]


def text_id(value: object, field: str) -> str:
    """Return an identifier as text; some sources write it as a number.

    Raises:
        ValueError: It is neither.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return check_text(value, field)


def _question(row: object, convert: Callable[[dict[str, Any]], SourceQuestion], gold: bool) -> SourceQuestion:
    if isinstance(row, ValueError):
        raise row
    if not isinstance(row, dict):
        raise ValueError(f"found {row!r:.60}; expected a JSON object")
    question = convert(row)
    return question if gold else replace(question, gold_ids=[], gold_passages=[])


def _check_titles_unneeded(number: int, question: SourceQuestion, source: str) -> None:
    if question.gold_passages:
        raise ValueError(
            f"{source}, row {number}: a gold passage is given by its title, {question.gold_passages[0].title!r}; "
            "give the corpus to look it up in (--corpus), or leave gold passages out (--no_gold)"
        )


def _row(number: int, question: SourceQuestion, corpus: _Corpus | None, prepared: PreparedQuestions) -> dict[str, Any]:
    row: dict[str, Any] = {"id": question.id or str(number), "question": question.question}
    if question.answers is not None:
        row["answers"] = question.answers
    gold_ids = question.gold_ids if corpus is None else _gold_ids(question, corpus, prepared)
    if gold_ids:
        row["gold_ids"] = list(dict.fromkeys(gold_ids))
    if question.excluded_ids:
        row["excluded_ids"] = question.excluded_ids
    if question.candidates is not None:
        row["candidates"] = _candidates(question.candidates, corpus, prepared)
    prepared.without_gold += not gold_ids
    prepared.without_answers += question.answers is None
    return row


def _gold_ids(question: SourceQuestion, corpus: _Corpus, prepared: PreparedQuestions) -> list[str]:
    absent_ids = [passage_id for passage_id in question.gold_ids if passage_id not in corpus.ids]
    titles = dict.fromkeys(passage.title for passage in question.gold_passages)
    absent_titles = [title for title in titles if title not in corpus.by_title]
    where = f"field '{question.gold_field}'"
    prepared.absent_ids += len(absent_ids)
    prepared.absent_titles += len(absent_titles)
    if absent_titles:
        raise ValueError(f"{where}: found the titles {absent_titles}; expected titles of passages in the corpus")
    if absent_ids:
        raise ValueError(f"{where}: found the ids {absent_ids}; expected ids of passages in the corpus")
    found = [corpus.find(passage) for passage in question.gold_passages]
    prepared.gold_by_text += sum(same_text for _, same_text in found)
    prepared.gold_by_title += sum(not same_text for _, same_text in found)
    return [*question.gold_ids, *(passage_id for passage_id, _ in found)]


def _candidates(
    passages: list[TitledText], corpus: _Corpus | None, prepared: PreparedQuestions
) -> list[dict[str, Any]]:
    """Give passages ids, and scores that keep their order: N, N - 1, ..., 1, as the source has none."""
    candidates: dict[str, dict[str, Any]] = {}
    for rank, passage in enumerate(passages):
        if corpus is None:
            passage_id = quoted_id(passage)
        else:
            passage_id, same_text = corpus.find(passage) if passage.title in corpus.by_title else ("", False)
            if not same_text:
                raise ValueError(f"passages[{rank}]: the corpus holds no passage {passage.title!r} with this text")
        if passage_id in candidates:
            prepared.repeated_candidates += 1
            continue
        score = float(len(passages) - rank)
        candidates[passage_id] = {"id": passage_id, "title": passage.title, "text": passage.text, "score": score}
    return list(candidates.values())


def _digest(text: str) -> bytes:
    """Return what tells a text from others, white space aside."""
    return hashlib.blake2b(_squeezed(text).encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _squeezed(text: str) -> str:
    return " ".join(text.split())
