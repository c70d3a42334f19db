"""Run files and corpora of any size, of which what is wanted is kept on the disk, in a temporary database."""

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from dro_trl.retrieval.progress import batched
from dro_trl.retrieval.trec_run import read_run_lines, twice
from dro_trl.types import Passage

_ROWS_AT_ONCE = 10_000


class StoredRun:
    """A run file's rankings, in the order in which `read_run` has them.

    Args:
        path: The run file.

    Raises:
        FileNotFoundError: As `read_run` raises it.
        ValueError: As `read_run` raises it.
        OSError: If there is no room for it where temporary files are.
    """

    def __init__(self, path: Path) -> None:
        self._database = sqlite3.connect("")  # A file without a name, gone with the connection.
        self._database.execute("create table ranked (query, passage, score real, primary key (query, passage))")
        last: list[str] = []

        def rows() -> Iterator[tuple[str, str, float]]:
            nonlocal last
            for *last, score in read_run_lines(path):
                yield last[1], last[2], score

        try:
            self._database.executemany("insert into ranked values (?, ?, ?)", rows())
        except sqlite3.IntegrityError:
            raise twice(*last) from None
        except sqlite3.OperationalError as error:
            raise _no_room(path, error) from error

    def get(self, query_id: str, default: list[tuple[str, float]]) -> list[tuple[str, float]]:
        """Return the ranking of a query, and `default` where the run does not have it."""
        query = "select passage, score from ranked where query = ? order by score desc, rowid"
        return list(self._database.execute(query, [query_id])) or default

    def num_queries(self) -> int:
        """Return how many queries the run ranks passages for."""
        return int(self._database.execute("select count(distinct query) from ranked").fetchone()[0])

    def passages_of(self, corpus: Iterable[Mapping[str, str]], name: str, ids: Iterable[str]) -> "StoredPassages":
        """Return those passages of a corpus that the run ranks, and those with the given ids."""
        execute = self._database.execute
        execute("create table wanted (id primary key, title, text) without rowid")
        execute("insert or ignore into wanted (id) select passage from ranked")
        self._database.executemany("insert or ignore into wanted (id) values (?)", ((id,) for id in ids))
        try:
            for batch in batched(corpus, _ROWS_AT_ONCE):
                rows = ((row["title"], row["text"], row["id"]) for row in batch)
                self._database.executemany("update wanted set title = ?, text = ? where id = ?", rows)
        except sqlite3.OperationalError as error:
            raise _no_room(name, error) from error
        return StoredPassages(self._database, name)


class StoredPassages:
    """Passages of a corpus by their ids; made by `StoredRun.passages_of`."""

    def __init__(self, database: sqlite3.Connection, name: str) -> None:
        self._database, self._name = database, name

    def passages(self, ids: Sequence[str]) -> list[Passage]:
        """Return the passages with these ids, in their order, with a score of 0.

        Raises:
            ValueError: If the corpus holds no such passage.
        """
        found = [
            self._database.execute("select title, text from wanted where id = ? and text not null", [id]).fetchone()
            for id in ids
        ]
        if absent := [id for id, row in zip(ids, found, strict=True) if row is None]:
            raise ValueError(f"{self._name} holds no passage {absent[0]!r} ({len(absent)} of {len(ids)} are missing)")
        return [Passage(id=id, title=row[0], text=row[1], score=0.0) for id, row in zip(ids, found, strict=True)]


def _no_room(path: Path | str, error: sqlite3.OperationalError) -> OSError:
    return OSError(
        f"{path} could not be kept in a temporary file ({error}); make room, or set TMPDIR to another folder"
    )
