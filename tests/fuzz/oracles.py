"""What a file says, read in the plainest way with Python's own libraries; ValueError where it says nothing valid."""

import csv
import gzip
import io
import json
import zlib


def text_of(content):
    """Return the text of a file that may be compressed."""
    if content[:2] == b"\x1f\x8b":
        try:
            content = gzip.decompress(content)
        except (EOFError, OSError, zlib.error) as error:
            raise ValueError("no whole gzip file") from error
    return content.removeprefix(b"\xef\xbb\xbf")


def lines_of(content):
    """Return the lines as text, those that are not UTF-8 as errors, with their numbers from 1."""
    lines = io.BytesIO(text_of(content)).read().splitlines() if content else []
    return [(number, decoded(line)) for number, line in enumerate(lines, start=1)]


def decoded(line):
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        return error


def json_of(text):
    """Return the value of a JSON text that any UTF-8 file can hold."""
    try:
        value = json.loads(text)
        json.dumps(value, ensure_ascii=False).encode()
    except RecursionError as error:
        raise ValueError("too deep") from error
    return value


def json_lines(content):
    """Return the values of the lines that are not blank, and the errors that others are, with their numbers."""
    found = []
    for number, line in lines_of(content):
        if isinstance(line, ValueError):
            found.append((number, line))
        elif line.strip():
            try:
                found.append((number, json_of(line)))
            except ValueError as error:
                found.append((number, error))
    return found


def cells_of(content, delimiter, quoted=True):
    """Return the rows of cells that are not blank."""
    text = text_of(content).decode()
    csv.field_size_limit(10**9)
    quoting = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    lines = (
        io.StringIO(text, newline="") if quoted else iter(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"))
    )
    try:
        rows = list(csv.reader(lines, delimiter=delimiter, quoting=quoting, strict=True))
    except csv.Error as error:
        raise ValueError(str(error)) from error
    return [row for row in rows if len(row) > 1 or "".join(row).strip()]


def same(found, expected):
    """Whether two values of JSON are the same, where a field that is not there is null."""
    if isinstance(found, dict) and isinstance(expected, dict):
        return all(same(found.get(key), expected.get(key)) for key in {*found, *expected})
    if isinstance(found, list) and isinstance(expected, list):
        return len(found) == len(expected) and all(map(same, found, expected))
    if isinstance(found, bool) != isinstance(expected, bool):
        return False
    return found == expected or (found != found and expected != expected)
