"""Reading and checking the passages that an index is built from."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

_FIELDS = ("id", "title", "text")


def read_jsonl(path: str | Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Read a file of one JSON object a line.

    Args:
        path: The file, in UTF-8.

    Returns:
        Pairs of a place (`"corpus.jsonl:12"`, to be named in errors) and the object there.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a line is no JSON object; the message names it.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no file {path}")
    with open(path, "rb") as lines:
        for number, line in enumerate(lines, start=1):
            where = f"{path}:{number}"
            try:
                row = json.loads(line)
            except ValueError as error:  # also undecodable bytes
                raise ValueError(f"{where}: not JSON ({error}); one object a line is needed") from error
            if not isinstance(row, dict):
                raise ValueError(f"{where}: found a JSON {type(row).__name__}, need an object")
            yield where, row


def read_corpus(corpus: str | Path | Iterable[Mapping[str, str]]) -> Iterator[dict[str, str]]:
    """Read passages and check each one.

    Args:
        corpus: A JSONL file or the passages themselves: `id` (unique), `title` (may be empty) and `text`, all strings.
            Other fields are not read.

    Returns:
        The passages in order, with just these three fields.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: At the first bad passage, naming its place and field; or if there is no passage at all.
    """
    rows: Iterable[tuple[str, Mapping[str, Any]]]
    if isinstance(corpus, str | Path):
        rows, name = read_jsonl(corpus), str(corpus)
    else:
        rows, name = ((f"passage {number}", row) for number, row in enumerate(corpus)), "corpus"
    first_seen: dict[str, str] = {}
    for where, row in rows:
        passage = _checked(row, where)
        if (before := first_seen.setdefault(passage["id"], where)) != where:
            raise ValueError(f"{where}: field 'id': {passage['id']!r} is that of {before} too; ids must be unique")
        yield passage
    if not first_seen:
        raise ValueError(f"{name}: the corpus is empty; at least one passage is needed")


def _checked(row: Mapping[str, Any], where: str) -> dict[str, str]:
    for field in _FIELDS:
        if field not in row:
            raise ValueError(f"{where}: field '{field}' is missing; a passage has {', '.join(_FIELDS)}")
        value = row[field]
        if not isinstance(value, str):
            raise ValueError(f"{where}: field '{field}': found {value!r} ({type(value).__name__}), need a string")
        if field != "title" and not value.strip():
            raise ValueError(f"{where}: field '{field}' is empty; only 'title' may be")
    return {field: row[field] for field in _FIELDS}
