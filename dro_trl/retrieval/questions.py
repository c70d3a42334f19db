"""The rows that candidates are found for: read as often as needed, and checked before anything is done."""

import contextlib
import hashlib
import io
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self, cast

from dro_trl.files.text_rows import read_objects, text_id
from dro_trl.retrieval.progress import batched
from dro_trl.retrieval.seen_ids import SeenIds
from dro_trl.retrieval.trec_run import check_column

_IDS_AT_ONCE = 65_536


class QuestionRows:
    """The rows of a JSONL file, none of which is kept in memory.

    Args:
        path: The file. What can be read once, such as a pipe, is copied to a temporary file first.

    Raises:
        FileNotFoundError: There is no such file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with contextlib.ExitStack() as opened:
            # Held open, so that a file which is replaced meanwhile is read to its end.
            self._file = opened.enter_context(path.open("rb"))
            if not path.is_file():
                copy = opened.enter_context(tempfile.TemporaryFile("w+b"))
                shutil.copyfileobj(self._file, copy)
                self._file = cast(io.BufferedReader, copy)
            self._opened = opened.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._opened.close()

    def ids(self) -> Iterator[str]:
        """Yield the ids of the rows, and the number from 1 of one that has none."""
        return (query_id(row, number) for number, row in enumerate(self, start=1))

    def digest(self) -> str:
        """Return a hash of the file's content."""
        self._file.seek(0)
        return hashlib.file_digest(self._file, "sha256").hexdigest()[:16]

    def check_ids(self) -> None:
        """Check that the ids can stand in a run file.

        Raises:
            ValueError: One is there twice, empty, or holds white space; names it.
        """
        seen, suspected = SeenIds(), []
        for batch in batched(enumerate(self.ids(), start=1), _IDS_AT_ONCE):
            for _, id in batch:
                check_column(id, "query")
            suspected += [batch[position] for position in seen.add([id for _, id in batch])]
        for number, repeated in suspected:
            first = next(other for other, id in enumerate(self.ids(), start=1) if id == repeated)
            if first != number:  # Else it is another id with the same hash.
                raise ValueError(
                    f"{self.path}: two questions have the id {repeated!r}, rows {first:,} and {number:,}; in a run "
                    "file each needs its own"
                )

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield the rows with all their columns; in lists of ids, numbers are text."""
        self._file.seek(0)
        for where, row in read_objects(self.path, self._file):
            question = row.get("question")
            if not isinstance(question, str) or not question.strip():
                raise ValueError(f"{where}: field 'question': found {question!r}, need a non-empty string")
            if "candidates" in row:
                raise ValueError(f"{where}: field 'candidates' is there already; remove it to retrieve anew")
            for field in ("answers", "gold_ids", "excluded_ids"):
                values = row.get(field)
                if field != "answers" and isinstance(values, list):
                    values = row[field] = [text_id(value) for value in values]
                if values is not None and not (isinstance(values, list) and all(isinstance(v, str) for v in values)):
                    raise ValueError(f"{where}: field '{field}': found {values!r}, need a list of strings, or null")
            yield row


def query_id(row: dict[str, Any], number: int) -> str:
    """Return the id of a row, or its number from 1 where it has none."""
    return str(number if row.get("id") is None else row["id"])
