"""Reading rows of JSON one at a time."""

import json
from collections.abc import Iterator
from pathlib import Path

from dro_trl.compressed import decompressed


def read_json(path: Path) -> Iterator[tuple[int, object]]:
    """Yield the rows of a JSON file (one list) or a JSON Lines file, one at a time; either may be a gzip file.

    A `.jsonl` file is read line by line; any other is taken as one list where its first character is `[`.

    Args:
        path: The file, in UTF-8.

    Yields:
        Where the row stands (for JSON Lines the line, for a list the element, both counted from 1) and the row.
        What is not valid JSON is yielded as the `ValueError` that says why, so that the caller decides what to do.

    Raises:
        ValueError: The whole file is one list and that list is malformed.
    """
    if path.name.removesuffix(".gz").endswith(".jsonl") or _first_character(path) != b"[":
        yield from _read_lines(path)
    else:
        yield from enumerate(_read_list(path), start=1)


def _read_lines(path: Path) -> Iterator[tuple[int, object]]:
    with path.open("rb") as file:
        for number, line in enumerate(decompressed(file), start=1):
            if not line.strip():
                continue
            try:
                yield number, json.loads(line)
            except ValueError as error:
                yield number, ValueError(f"malformed JSON: {error}; expected one JSON object")


def _first_character(path: Path) -> bytes:
    with path.open("rb") as file:
        return decompressed(file).read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()[:1]


def _read_list(path: Path) -> list[object]:
    try:
        with path.open("rb") as file:
            return list(json.loads(decompressed(file).read()))
    except ValueError as error:
        raise ValueError(f"{path}: malformed JSON: {error}; expected one list of JSON objects") from error
