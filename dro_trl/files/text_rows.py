"""Rows of text files, read alike wherever they are: lines, JSON Lines and JSON, cells of TSV and CSV.

All may be compressed with gzip and begin with a byte order mark; lines end in LF, CRLF or CR, and empty ones hold no
row. What cannot be read is told with its file and line.
"""

import csv
import gzip
import io
import json
import math
import re
import sys
import zlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, cast

_MAGIC = b"\x1f\x8b"


_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_HALF_A_PAIR = re.compile(r"\\u[dD][89a-fA-F]")
_MOST_LINES_OF_A_CELL = 100_000
_WORD = re.compile(r"[^ \t\n\v\f\r]+")
_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")
UNQUOTED = "if quotes are plain text there, say so with --format tsv_unquoted"

Numbered = tuple[int, object]
"""The line on which a row stands, counted from 1, and the row, or the `ValueError` that says what is wrong with it."""


def decompressed(file: io.BufferedReader) -> BinaryIO:
    """Return a stream of the file's bytes, decompressed where it is a gzip file.

    Args:
        file: Opened at its start. Its own `tell` goes on to say how many bytes of the file have been read.
    """
    if file.peek(len(_MAGIC))[: len(_MAGIC)] == _MAGIC:
        return cast(BinaryIO, gzip.GzipFile(fileobj=file))
    return file


def read_lines(path: Path, file: io.BufferedReader | None = None) -> Iterator[tuple[int, str]]:
    """Yield the lines that are not empty, with their numbers and without their ends.

    Args:
        path: The file, in UTF-8.
        file: It, opened at its start, where the caller wants to know how far it has been read.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is cut off or not UTF-8; names the line.
    """
    for number, line in _decoded(path, file):
        if isinstance(line, ValueError):
            raise ValueError(f"{path}:{number}: {line}") from line
        if stripped := line.rstrip("\r\n"):
            yield number, stripped


def read_json(path: Path) -> Iterator[Numbered]:
    """Yield the rows of a JSON file (one list) or a JSON Lines file, one at a time.

    A `.jsonl` file is read line by line; any other is taken as one list where its first character is `[`.

    Args:
        path: The file, in UTF-8.

    Yields:
        Where the row stands (for JSON Lines the line, for a list the element, both counted from 1) and the row.
        What is not valid JSON is yielded as the `ValueError` that says why, so that the caller decides what to do.

    Raises:
        ValueError: The file is cut off, or is one list and that list is malformed.
    """
    if is_json_lines(path):
        yield from _json_lines(path)
    else:
        yield from enumerate(_json_list(path), start=1)


def is_json_lines(path: Path) -> bool:
    """Whether a file is not to be taken as one JSON list."""
    return path.name.removesuffix(".gz").endswith(".jsonl") or _first_character(path) != "["


def read_json_blocks(path: Path, first: int, size: int) -> Iterator[tuple[int, bytes]]:
    """Yield a JSON Lines file in blocks of whole lines, which `splitlines` finds.

    Args:
        path: The file.
        first: How many lines the first block has, where there are so many.
        size: How many bytes any other has at least.

    Yields:
        How many lines of the file come before the block, and the block.

    Raises:
        ValueError: The file is a gzip file that is cut off or damaged; names the line.
    """
    before = 0
    try:
        with path.open("rb") as opened:
            file = decompressed(opened)
            block = b"".join(islice(file, first)).removeprefix(_BYTE_ORDER_MARK)
            while block:
                yield before, block
                before += len(block.splitlines()) if b"\r" in block else block.count(b"\n")
                block = file.read(size) + file.readline()
    except (EOFError, zlib.error, gzip.BadGzipFile):
        for _ in _decoded(path):  # Says on which line.
            pass
        raise


def is_blank(line: bytes) -> bool:
    """Whether a line of a file in UTF-8 holds no row."""
    return line[:1] != b"{" and not line.decode(errors="replace").strip()


def parse_json_line(line: bytes) -> object:
    """Return the row that a line of a JSON Lines file holds, or the `ValueError` that says what is wrong with it."""
    try:
        return _json_row(line.decode())
    except UnicodeDecodeError as error:
        return ValueError(f"not UTF-8: {error}")


def read_objects(path: Path, file: io.BufferedReader | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the objects of a JSON Lines file, each with its place (`"corpus.jsonl:12"`, to be named in errors).

    Args:
        path: The file, in UTF-8.
        file: As in `read_lines`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: If a line is no JSON object; the message names it.
    """
    for number, row in _json_lines(path, file):
        where = f"{path}:{number}"
        if isinstance(row, ValueError):
            raise ValueError(f"{where}: {row}") from row
        if not isinstance(row, dict):
            raise ValueError(f"{where}: found a JSON {type(row).__name__}, need an object")
        yield where, row


def parse_json(text: str) -> Any:
    """Parse JSON.

    Raises:
        ValueError: It is none, is nested too deeply, or holds half of a surrogate pair, which no UTF-8 file can.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("malformed JSON: nested too deeply to be read") from None
    except ValueError as error:
        raise ValueError(f"malformed JSON: {error}") from error
    if _HALF_A_PAIR.search(text):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            half = f"\\u{ord(error.object[error.start]):04x}"
            raise ValueError(
                f"found {half}, half of a surrogate pair, which is not valid Unicode; take it out"
            ) from error
    return value


def text_id(value: object) -> object:
    """Return an id that is written as a number as text, and anything else as it is."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def split_words(line: str) -> list[str]:
    """Split a line at white space as trec_eval does: at that of ASCII alone, so that an id may hold any other."""
    return _WORD.findall(line)


def parse_number(text: str) -> float:
    """Return the number that a text is to every program: ASCII digits, without `_` between them, and finite.

    Raises:
        ValueError: It is none.
    """
    if not _NUMBER.fullmatch(text) or not math.isfinite(number := float(text)):
        raise ValueError(f"{text!r:.40} is no finite number")
    return number


def read_cells(
    path: Path, delimiter: str, file: io.BufferedReader | None = None, *, quoted: bool = True, remedy: str = ""
) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows of a file of cells, each with the line on which it begins.

    Args:
        path: The file, in UTF-8.
        delimiter: What stands between cells: a tab or a comma.
        file: As in `read_lines`.
        quoted: Whether a cell that begins with a quote ends with one and doubles those within, as in CSV.
        remedy: What the user can do about quotes that are not meant so, for the error.

    Raises:
        ValueError: It is cut off or not UTF-8, or a quote opens a cell that does not end as it should; names the line
            on which the row begins.
    """
    csv.field_size_limit(sys.maxsize)  # Python's own limit is 128 KiB, and the candidates of a row are one cell.
    begun = 0

    def lines() -> Iterator[str]:
        for number, line in _decoded(path, file):
            if isinstance(line, ValueError):
                raise ValueError(f"{path}:{number}: {line}") from line
            if number - begun > _MOST_LINES_OF_A_CELL:
                raise csv.Error(f"a quote opens a cell of more than {_MOST_LINES_OF_A_CELL:,} lines")
            yield line if quoted else line.rstrip("\r\n")

    reader = csv.reader(
        lines(), delimiter=delimiter, quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE, strict=True
    )
    advice = f"; {remedy}" if remedy else ""
    while True:
        begun = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            said = f"not readable as {'TSV' if delimiter == chr(9) else 'CSV'}: {_explained(str(error))}"
            raise ValueError(f"{path}:{begun}: {said}{advice}") from error
        if cells is None:
            return
        if delimiter == "\t" and reader.line_num > begun and any("\t" in cell for cell in cells):
            end = reader.line_num
            said = f"not readable as TSV: a quote opens a cell that takes in rows up to line {end}"
            raise ValueError(f"{path}:{begun}: {said}{advice}")
        if any(cell.strip() for cell in cells) or len(cells) > 1:
            yield begun, cells


def _explained(error: str) -> str:
    if "end of data" in error:
        return "a quote opens a cell and is not closed"
    return "a quote opens a cell and another stands within it" if "expected after" in error else error


def _decoded(path: Path, file: io.BufferedReader | None = None) -> Iterator[tuple[int, str | ValueError]]:
    """Yield the lines of a file with their ends, as text or as the error that it is none."""
    if file is None:
        with path.open("rb") as opened:
            yield from _decoded(path, opened)
        return
    number = 0
    try:
        for stretch in decompressed(file):
            # Where all lines end in CR, they come as one stretch.
            for line in stretch.splitlines(keepends=True) if b"\r" in stretch else (stretch,):
                number += 1
                try:
                    yield number, (line.removeprefix(_BYTE_ORDER_MARK) if number == 1 else line).decode()
                except UnicodeDecodeError as error:
                    yield number, ValueError(f"not UTF-8: {error}")
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(
            f"{path}: the compressed file is cut off or damaged after line {number} ({error}); get it again"
        ) from error


def _json_lines(path: Path, file: io.BufferedReader | None = None) -> Iterator[Numbered]:
    for number, line in _decoded(path, file):
        if isinstance(line, ValueError):
            yield number, line
        elif line.strip():
            yield number, _json_row(line)


def _json_row(line: str) -> object:
    try:
        return parse_json(line)
    except ValueError as error:
        malformed = str(error).startswith("malformed")
        return ValueError(f"{error}; expected one JSON object") if malformed else error


def _first_character(path: Path) -> str:
    for _, line in _decoded(path):
        if isinstance(line, ValueError):
            return ""
        if stripped := line.lstrip():
            return stripped[0]
    return ""


def _json_list(path: Path) -> list[object]:
    text = "".join(line + "\n" for _, line in read_lines(path))
    try:
        rows = parse_json(text)
    except ValueError as error:
        raise ValueError(f"{path}: {error}; expected one list of JSON objects") from error
    return list(rows)
