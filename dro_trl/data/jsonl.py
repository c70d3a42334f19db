"""Reading rows of JSON one at a time, and writing them atomically."""

import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any


def read_json(path: Path) -> Iterator[tuple[int, object]]:
    """Yield the rows of a JSON file (one list) or a JSON Lines file, one at a time.

    A `.jsonl` file is read line by line; any other is taken as one list where its first character is `[`.

    Args:
        path: The file, in UTF-8.

    Yields:
        Where the row stands (for JSON Lines the line, for a list the element, both counted from 1) and the row.
        What is not valid JSON is yielded as the `ValueError` that says why, so that the caller decides what to do.

    Raises:
        ValueError: The whole file is one list and that list is malformed.
    """
    if path.suffix != ".jsonl" and _first_character(path) == b"[":
        yield from enumerate(_read_list(path), start=1)
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                yield number, json.loads(line)
            except ValueError as error:
                yield number, ValueError(f"malformed JSON: {error}; expected one JSON object")


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as JSON Lines in UTF-8; the file appears whole or not at all.

    Args:
        path: The file; its folder is made where it is missing, and a file already there is replaced.
        rows: JSON objects, one per line.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        # mkstemp makes files that only their owner can read.
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _first_character(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()[:1]


def _read_list(path: Path) -> list[object]:
    try:
        return list(json.loads(path.read_bytes()))
    except ValueError as error:
        raise ValueError(f"{path}: malformed JSON: {error}; expected one list of JSON objects") from error
