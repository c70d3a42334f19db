"""Reading and checking the passages that an index is built from, whatever public form they come in."""

import contextlib
import csv
import gzip
import io
import itertools
import json
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from dro_trl.compressed import decompressed
from dro_trl.retrieval.seen_ids import SeenIds
from dro_trl.retrieval.stored import split_document

_FIELDS = ("id", "title", "text")
FORMATS = ("jsonl", "beir", "contents", "kilt", "tsv")
"""What `CorpusFile` reads, as its docstring says."""
_IDS_AT_ONCE = 65_536

Located = tuple[str, Mapping[str, Any]]
"""A place (`"corpus.jsonl:12"`, to be named in errors) and what was found there."""


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
    _check_file(path)
    with open(path, "rb") as lines:
        yield from _objects(lines, path)


class CorpusFile:
    """The passages of a file, read one at a time and as often as it is iterated over.

    The formats, each of which may be compressed with gzip:

    - `jsonl`: one object a line with the strings `id`, `title` and `text`;
    - `beir`: the same with `_id`; a document without text has its title as text, one without both is left out;
    - `contents`: `id` and `contents`, where the title may stand in quotes on the first line (Pyserini, FlashRAG);
    - `kilt`: KILT's pages; each paragraph is a passage with the id `<wikipedia_id>:<paragraph>`, and those that are
      the title, a heading or empty are left out;
    - `tsv`: columns named in the first line, `id`, `text` and, if any, `title` in any order, cells quoted as in CSV
      (DPR's `psgs_w100.tsv`); or no such line, the two columns id and text, and quotes as they stand (MS MARCO).

    Args:
        path: The file, in UTF-8.
        format: One of `FORMATS`; recognised from the first line where None.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If `format` is unknown.
    """

    def __init__(self, path: str | Path, format: str | None = None) -> None:
        _check_file(path)
        if format is not None and format not in FORMATS:
            raise ValueError(f"unknown format {format!r}; expected one of {', '.join(FORMATS)}")
        self.path = Path(path)
        self.format = format or _recognized(self.path)
        self.num_bytes = self.path.stat().st_size
        self.bytes_read = 0
        """Bytes of the file read so far, for a progress bar."""
        self.counts: Counter[str] = Counter()
        """What was read in another way than as it stands, or left out, in the last iteration: how often."""

    def __iter__(self) -> Iterator[dict[str, str]]:
        """Yield the passages, each checked; that ids are unique is for `read_corpus` to check."""
        return (_checked(row, where) for where, row in self.rows())

    def rows(self) -> Iterator[Located]:
        """Yield the passages unchecked, each with its place."""
        self.counts.clear()
        convert = {"beir": self._beir, "contents": self._contents, "kilt": self._kilt}.get(self.format)
        with self.path.open("rb") as file, _readable(self.path):
            stream = decompressed(file)
            lines = _tsv_rows(stream, self.path) if self.format == "tsv" else _objects(stream, self.path)
            for where, row in lines:
                self.bytes_read = file.tell()
                yield from convert(row, where) if convert else [(where, row)]
        self.bytes_read = self.num_bytes

    def _beir(self, row: Mapping[str, Any], where: str) -> Iterator[Located]:
        passage = {"id": row.get("_id"), "title": row.get("title", ""), "text": row.get("text", "")}
        title, text = passage["title"], passage["text"]
        if not isinstance(title, str) or not isinstance(text, str) or text.strip():
            yield where, passage
        elif title.strip():
            self.counts["documents of a title alone, which is read as their text"] += 1
            yield where, {**passage, "title": "", "text": title}
        else:
            self.counts["empty documents left out"] += 1

    def _contents(self, row: Mapping[str, Any], where: str) -> Iterator[Located]:
        if not isinstance(row.get("contents"), str):
            raise ValueError(f"{where}: field 'contents': found {row.get('contents')!r:.80}, need a string")
        title, text = split_document(row)
        yield where, {"id": _text_id(row.get("id")), "title": title, "text": text}

    def _kilt(self, row: Mapping[str, Any], where: str) -> Iterator[Located]:
        page, title, paragraphs = _text_id(row.get("wikipedia_id")), row.get("wikipedia_title"), row.get("text")
        if not isinstance(page, str) or not isinstance(title, str) or not isinstance(paragraphs, list):
            raise ValueError(f"{where}: need the strings wikipedia_id and wikipedia_title and the list text")
        for number, paragraph in enumerate(paragraphs):
            if not isinstance(paragraph, str):
                raise ValueError(f"{where}: field 'text': found {paragraph!r:.80}, need a list of strings")
            if number == 0 and paragraph.strip() == title.strip():
                self.counts["paragraphs left out: the page's title"] += 1
            elif paragraph.startswith("Section::::"):
                self.counts["paragraphs left out: headings"] += 1
            elif not paragraph.strip():
                self.counts["paragraphs left out: empty"] += 1
            else:
                yield where, {"id": f"{page}:{number}", "title": title, "text": paragraph.strip()}


def read_corpus(corpus: str | Path | CorpusFile | Iterable[Mapping[str, str]]) -> Iterator[dict[str, str]]:
    """Read passages and check each one; of those read before, only a hash of the id is kept (`SeenIds`).

    Args:
        corpus: A file, or the passages themselves: `id` (unique), `title` (may be empty) and `text`, all strings.
            Other fields are not read.

    Returns:
        The passages in order, with just these three fields. A repeated id may be noticed some passages later.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: At the first bad passage, naming its place and field; or if there is no passage at all. An iterator
            cannot be read again to make sure of a repeated id, and is believed to have one where two hashes agree.
    """
    if isinstance(corpus, str | Path):
        corpus = CorpusFile(corpus)
    seen = SeenIds()
    recent: list[tuple[str, str]] = []
    is_empty = True
    for where, row in _located(corpus):
        is_empty = False
        passage = _checked(row, where)
        recent.append((where, passage["id"]))
        if len(recent) == _IDS_AT_ONCE:
            _check_new(recent, seen, corpus)
            recent.clear()
        yield passage
    _check_new(recent, seen, corpus)
    if is_empty:
        name = corpus.path if isinstance(corpus, CorpusFile) else "corpus"
        raise ValueError(f"{name}: the corpus is empty; at least one passage is needed")


def _located(corpus: Iterable[Mapping[str, Any]]) -> Iterator[Located]:
    if isinstance(corpus, CorpusFile):
        return corpus.rows()
    return ((f"passage {number}", row) for number, row in enumerate(corpus))


def _check_new(recent: list[tuple[str, str]], seen: SeenIds, corpus: Iterable[Mapping[str, Any]]) -> None:
    for position in seen.add([passage_id for _, passage_id in recent]):
        where, passage_id = recent[position]
        before = "an earlier passage"
        if not isinstance(corpus, Iterator):
            again = CorpusFile(corpus.path, corpus.format) if isinstance(corpus, CorpusFile) else corpus
            before = next(place for place, row in _located(again) if row.get("id") == passage_id)
        if before == where:
            continue  # another id with the same hash
        raise ValueError(f"{where}: field 'id': {passage_id!r} is that of {before} too; ids must be unique")


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


def _text_id(value: object) -> object:
    """Return an id that is written as a number as text, and anything else as it is."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _check_file(path: str | Path) -> None:
    if not Path(path).is_file():
        raise FileNotFoundError(f"no file {path}")


def _recognized(path: Path) -> str:
    """Return the format that the first line that is not empty has."""
    with path.open("rb") as file, _readable(path):
        line = next((line for line in decompressed(file) if line.strip()), b"")
    try:
        row = json.loads(line)
    except ValueError:
        return "tsv" if b"\t" in line and not line.lstrip().startswith(b"{") else "jsonl"
    if not isinstance(row, dict) or "id" in row:
        return "contents" if isinstance(row, dict) and "contents" in row and "text" not in row else "jsonl"
    if "wikipedia_id" in row:
        return "kilt"
    return "beir" if "_id" in row else "jsonl"


def _objects(lines: Iterable[bytes], path: str | Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(lines, start=1):
        where = f"{path}:{number}"
        try:
            row = json.loads(line)
        except ValueError as error:  # also undecodable bytes
            raise ValueError(f"{where}: not JSON ({error}); one object a line is needed") from error
        if not isinstance(row, dict):
            raise ValueError(f"{where}: found a JSON {type(row).__name__}, need an object")
        yield where, row


def _tsv_rows(stream: BinaryIO, path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")
    first = text.readline()
    names = first.rstrip("\r\n").split("\t")
    if {"id", "text"} <= set(names):
        reader, header = csv.reader(text, delimiter="\t", strict=True), 1
    elif len(names) == 2:
        reader, header = csv.reader(itertools.chain([first], text), delimiter="\t", quoting=csv.QUOTE_NONE), 0
        names = ["id", "text"]
    else:
        raise ValueError(
            f"{path}:1: found {len(names)} columns, none of them named id and text; put a first line that names them, "
            "such as id, text, title with tabs between"
        )
    while True:
        try:
            cells = next(reader, None)
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"{path}:{reader.line_num + header}: not readable as TSV ({error})") from error
        if cells is None:
            return
        where = f"{path}:{reader.line_num + header}"
        if len(cells) != len(names):
            raise ValueError(f"{where}: found {len(cells)} columns, need {len(names)}: {', '.join(names)}")
        yield where, {"title": "", **dict(zip(names, cells, strict=True))}


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Say which file it is that cannot be decoded."""
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path}: the compressed file is cut off or damaged ({error})") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 ({error})") from error
