"""Rows of text files: the same ones however the file is written, and every fault told with file and line."""

import csv
import gzip
import io
import json
import re

import pytest

from dro_trl.files.text_rows import read_cells, read_json, read_lines, read_objects

ROWS = [{"id": "é", "text": "one two"}, {"id": 2, "text": "\u2028three\x85"}, {"id": "c", "text": "\U0001f600"}]
MARK = "\ufeff".encode()


def disguised(lines, how):
    """Return lines of bytes as a file that holds the same rows."""
    end = {"cr": b"\r", "crlf": b"\r\n"}.get(how, b"\n")
    content = end.join(lines) + (b"" if how == "no last end" else end)
    if how == "mark":
        return MARK + content
    if how == "empty lines":
        return b"\n" + content.replace(b"\n", b"\n\n") + b"\r\n\n"
    if how == "gzip":
        return gzip.compress(MARK + content)
    return content


HOW = ["plain", "mark", "cr", "crlf", "no last end", "empty lines", "gzip"]


@pytest.mark.parametrize("how", HOW)
def test_the_same_rows_however_they_are_written(tmp_path, how):
    lines = [json.dumps(row, ensure_ascii=number == 2).encode() for number, row in enumerate(ROWS)]
    path = tmp_path / "rows.jsonl"
    path.write_bytes(disguised(lines, how))
    assert [row for _, row in read_json(path)] == [row for _, row in read_objects(path)] == ROWS
    step, first = (2, 2) if how == "empty lines" else (1, 1)
    assert [number for number, _ in read_json(path)] == [first + step * n for n in range(3)]
    assert [json.loads(line) for _, line in read_lines(path)] == ROWS
    cells = [["id", "text"], ["1", 'say "x"'], ["é", ""]]
    path.write_bytes(disguised(["\t".join(row).encode() for row in cells], how))
    assert [row for _, row in read_cells(path, "\t", quoted=False)] == cells
    assert [row for _, row in read_cells(path, "\t")] == cells


@pytest.mark.parametrize("how", ["plain", "mark", "cr", "gzip"])
def test_one_list_is_read_as_lines_are(tmp_path, how):
    path = tmp_path / "rows.json"
    path.write_bytes(disguised(json.dumps(ROWS, indent=1).encode().split(b"\n"), how))
    assert list(read_json(path)) == list(enumerate(ROWS, start=1))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"a": ', "malformed JSON: "),
        (b'{"a": "\xff"}', "not UTF-8: "),
        (b"[" * 100_000, "malformed JSON: nested too deeply"),
        (b'{"a": {"b": ["\\ud83d"]}}', "found \\ud83d, half of a surrogate pair"),
        (b'{"\\uDE00": 1}', "found \\ude00, half of a surrogate pair"),
        (b"1" * 5_000, "malformed JSON: "),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, message):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": "\\ud83d\\ude00 \\\\ud83d"}\n\n' + line + b'\n{"a": 2}\n')
    found = dict(read_json(path))
    assert list(found) == [1, 3, 4]
    assert str(found[3]).startswith(message)
    with pytest.raises(ValueError, match=re.escape(f"{path}:3: {message}")):
        list(read_objects(path))


def test_a_row_that_is_no_object_is_named(tmp_path):
    (tmp_path / "rows.jsonl").write_text("[1]")
    with pytest.raises(ValueError, match=r"rows\.jsonl:1: found a JSON list, need an object"):
        list(read_objects(tmp_path / "rows.jsonl"))
    (tmp_path / "rows.json").write_text('[{"a": "\\ud83d"}]')
    with pytest.raises(ValueError, match=r"rows\.json: found \\ud83d, half"):
        list(read_json(tmp_path / "rows.json"))


@pytest.mark.parametrize("cut", [0.02, 0.5, 0.99])
def test_a_compressed_file_that_is_cut_off_or_damaged_is_named(tmp_path, cut):
    path = tmp_path / "rows.jsonl"
    lines = b"".join(json.dumps({"n": n, "square": n * n}).encode() + b"\n" for n in range(3_000))
    whole = gzip.compress(lines)
    path.write_bytes(whole[: int(cut * len(whole))])
    damaged = pytest.raises(ValueError, match=r"rows\.jsonl: the compressed file is cut off or damaged after line \d+")
    with damaged:
        list(read_json(path))
    path.write_bytes(whole[: int(cut * len(whole))] + bytes(8) + whole[int(cut * len(whole)) + 8 :])
    with pytest.raises(ValueError, match=r"rows\.jsonl: the compressed file|rows\.jsonl:\d+: (malformed|not UTF-8)"):
        list(read_objects(path))


@pytest.mark.parametrize("delimiter", ["\t", ","])
def test_cells_are_as_python_writes_them(tmp_path, delimiter):
    cells = [["a", "b", "c"], ['say "x"', "x, y", " "], ["", "two\nlines\r\nor three", "\x00\u2028"]]
    cells.append(["x" * 300_000, "1", "2"])
    written = io.StringIO(newline="")
    csv.writer(written, delimiter=delimiter).writerows(cells)
    path = tmp_path / "rows"
    path.write_text(written.getvalue(), encoding="utf-8", newline="")
    assert [row for _, row in read_cells(path, delimiter)] == cells
    assert [number for number, _ in read_cells(path, delimiter)] == [1, 2, 3, 6]


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        ("swallow", 2, "a quote opens a cell that takes in rows up to line 4"),
        ("open", 2, "a quote opens a cell and is not closed"),
        ("mid", 2, "a quote opens a cell and another stands within it"),
    ],
)
def test_a_quote_that_takes_in_rows_is_named_with_its_line(tmp_path, name, line, message):
    texts = {
        "swallow": ['"To be or not to be begins it.', "The Po crosses Turin.", 'Once called Christiania"', "Lima"],
        "open": ['"We shall fight on the beaches.', "The Po crosses Turin.", "Oslo"],
        "mid": ['"Imagine" is a song by John Lennon.', "The Po crosses Turin."],
    }[name]
    rows = [["id", "text", "title"], *([str(number), text, "T"] for number, text in enumerate(texts))]
    path = tmp_path / "rows.tsv"
    path.write_text("".join("\t".join(row) + "\n" for row in rows))
    with pytest.raises(ValueError, match=re.escape(f"{path}:{line}: not readable as TSV: {message}; say so")):
        list(read_cells(path, "\t", remedy="say so"))
    assert [cells for _, cells in read_cells(path, "\t", quoted=False)] == rows


def test_cells_that_are_not_utf8_are_named(tmp_path):
    (tmp_path / "rows.tsv").write_bytes(b"a\tb\n\xe9\tb\n")
    with pytest.raises(ValueError, match=r"rows\.tsv:2: not UTF-8"):
        list(read_cells(tmp_path / "rows.tsv", "\t"))
