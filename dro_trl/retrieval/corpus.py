"""Reading and checking the passages that an index is built from, whatever public form they come in."""

import io
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from dro_trl.files.text_rows import UNQUOTED, parse_json, read_cells, read_lines, read_objects, text_id
from dro_trl.retrieval.seen_ids import SeenIds

_FIELDS = ("id", "title", "text")
FORMATS = ("jsonl", "beir", "contents", "kilt", "tsv", "tsv_unquoted")
"""What `CorpusFile` reads, as its docstring says."""
_IDS_AT_ONCE = 65_536
_LONGEST_ID = 32_766  # bytes: Lucene's limit for a term
_SUFFIXES = (".jsonl", ".json", ".tsv")

Located = tuple[str, Mapping[str, Any]]
"""A place (`"corpus.jsonl:12"`, to be named in errors) and what was found there."""


def split_document(document: Mapping[str, Any]) -> tuple[str, str]:
    r"""Return title and text of a document.

    Args:
        document: With `title`, and `contents` that begin with it (indexes of this package), or with the title in
            quotes on the first line of `contents` (Pyserini's `wikipedia-dpr-100w`, FlashRAG's corpora), or with a
            field `text` (Pyserini's BEIR indexes), or with `contents` alone. A field that is null is one that is not
            there.

    Returns:
        The title, possibly empty, and the text.

    Raises:
        ValueError: A field is no text, or there is neither `text` nor `contents`.

    Example:
        >>> split_document({"id": "1", "contents": "\"Aaron\"\nAaron is a prophet."})
        ('Aaron', 'Aaron is a prophet.')
    """
    title, text, contents = (document.get(field) for field in ("title", "text", "contents"))
    for field, value in (("title", title), ("text", text), ("contents", contents)):
        if value is not None and not isinstance(value, str):
            raise ValueError(f"field '{field}': found {value!r:.80}, need a string")
    if text is not None:
        return title or "", text
    if contents is None:
        raise ValueError("there is no field 'contents' or 'text'")
    if title is not None:
        return title, contents.removeprefix(title + "\n")
    if quoted := re.match(r'"(.*)"\n', contents):
        return quoted[1].replace('""', '"'), contents[quoted.end() :]
    return "", contents


def parse_stored(raw: str | None) -> tuple[str, str]:
    r"""Split a stored document into title and text.

    Args:
        raw: JSON of one of the forms that `split_document` knows.

    Returns:
        The title, possibly empty, and the text.

    Raises:
        ValueError: If nothing is stored, or it is none of these.

    Example:
        >>> parse_stored('{"id": "1", "contents": "\\"Aaron\\"\\nAaron is a prophet."}')
        ('Aaron', 'Aaron is a prophet.')
    """
    if raw is None:
        raise ValueError("the index does not store its texts; use one that does ('wikipedia-dpr-100w', not '…-slim')")
    try:
        document = parse_json(raw)
        if not isinstance(document, dict):
            raise ValueError(f"found {type(document).__name__}, need an object")
        return split_document(document)
    except ValueError as error:
        raise ValueError(f"the stored document cannot be read ({error}): {raw[:80]!r}") from error


class CorpusFile:
    """The passages of a file, read one at a time and as often as it is iterated over.

    The formats, each of which may be compressed with gzip:

    - `jsonl`: one object a line with the strings `id`, `title` and `text`;
    - `beir`: the same with `_id`, which may be a number, and a title that may be null; a document without text has its
      title as text, one without both is left out;
    - `contents`: `id` and `contents`, where the title may stand in quotes on the first line (Pyserini, FlashRAG);
    - `kilt`: KILT's pages; each paragraph is a passage with the id `<wikipedia_id>:<paragraph>`, and those that are
      the title, a heading or empty are left out;
    - `tsv`: columns named in the first line, `id`, `text` and, if any, `title` in any order, cells quoted as in CSV
      (DPR's `psgs_w100.tsv`); or no such line, the two columns id and text, and quotes as they stand (MS MARCO);
    - `tsv_unquoted`: the same, quotes as they stand in any case.

    Ids that are written as numbers are read as text.

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
        with self.path.open("rb") as file:
            for where, row in self._raw_rows(file):
                self.bytes_read = file.tell()
                yield from convert(row, where) if convert else [(where, row)]
        self.bytes_read = self.num_bytes

    def _raw_rows(self, file: io.BufferedReader) -> Iterator[Located]:
        if self.format.startswith("tsv"):
            return _tsv_rows(self.path, file, self.format == "tsv")
        return read_objects(self.path, file)

    def _beir(self, row: Mapping[str, Any], where: str) -> Iterator[Located]:
        title, text = ("" if row.get(field) is None else row[field] for field in ("title", "text"))
        passage = {"id": text_id(row.get("_id")), "title": title, "text": text}
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
        try:
            title, text = split_document(row)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        yield where, {"id": text_id(row.get("id")), "title": title, "text": text}

    def _kilt(self, row: Mapping[str, Any], where: str) -> Iterator[Located]:
        page, title, paragraphs = text_id(row.get("wikipedia_id")), row.get("wikipedia_title"), row.get("text")
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


class _Document(CorpusFile):
    """A file that is one JSON value over several lines: a list of objects, or one object."""

    def __init__(self, path: Path, format: str | None) -> None:
        self.path = path
        with path.open("rb") as file:
            first = next((row for _, row in self._raw_rows(file)), None)
        super().__init__(path, format or _format_of(first))

    def _raw_rows(self, file: io.BufferedReader) -> Iterator[Located]:
        try:
            value = parse_json("".join(line + "\n" for _, line in read_lines(self.path, file)))
        except ValueError as error:
            raise ValueError(f"{self.path}: not JSON ({error}); a list of objects is needed, or one a line") from error
        for number, row in enumerate(value if isinstance(value, list) else [value], start=1):
            where = f"{self.path}, element {number}"
            if not isinstance(row, dict):
                raise ValueError(f"{where}: found a JSON {type(row).__name__}, need an object")
            yield where, row


class _Folder(CorpusFile):
    """The files of a folder and of those in it, in the order of their names, as one corpus."""

    def __init__(self, path: Path, format: str | None) -> None:
        there = sorted(file for file in path.rglob("*") if file.is_file() and not _is_hidden(file.relative_to(path)))
        named = [file for file in there if file.name.removesuffix(".gz").endswith(_SUFFIXES)]
        corpora = [file for file in named if file.stat().st_size]
        self._ignored = len(there) - len(corpora)
        if not corpora:
            raise FileNotFoundError(f"{path}: no corpus; there is no file *{', *'.join(_SUFFIXES)} in the folder")
        if any(file.name.removesuffix(".gz") == "queries.jsonl" for file in corpora):
            raise ValueError(f"{path}: a folder of BEIR's, with queries beside the documents; give its corpus.jsonl")
        self._files = [open_corpus(file, format) for file in corpora]
        for file in self._files:
            if file.format != self._files[0].format:
                raise ValueError(
                    f"{path}: {self._files[0].path} looks like {self._files[0].format}, {file.path} like "
                    f"{file.format}; name the format of all (--format), or take the others out"
                )
        self.path = path
        self.format = self._files[0].format
        self.num_bytes = sum(file.num_bytes for file in self._files)
        self.bytes_read = 0
        self.counts = Counter()

    def rows(self) -> Iterator[Located]:
        self.counts.clear()
        self.bytes_read = before = 0
        for file in self._files:
            for row in file.rows():
                self.bytes_read = before + file.bytes_read
                yield row
            self.counts.update(file.counts)
            before += file.num_bytes
        self.bytes_read = self.num_bytes
        if self._ignored:
            self.counts["files left out, empty or of other kinds"] = self._ignored


def open_corpus(path: str | Path, format: str | None = None) -> CorpusFile:
    """Open a file of passages, or a folder of such files, as Pyserini's collections are.

    Of a folder all files are read that are not empty and whose names end in `.jsonl`, `.json` or `.tsv`, or in these
    and `.gz`; the others are counted. All are of one format. A file may also be one JSON list of objects, or one
    object over several lines.

    Args:
        path: The file or folder.
        format: As `CorpusFile` has it.

    Raises:
        FileNotFoundError: There is no such file or folder, or no file in it.
        ValueError: `format` is unknown, or the files of the folder differ in theirs.
    """
    path = Path(path)
    if path.is_dir():
        return _Folder(path, format)
    return _Document(path, format) if _is_document(path, format) else CorpusFile(path, format)


def read_corpus(corpus: str | Path | CorpusFile | Iterable[Mapping[str, str]]) -> Iterator[dict[str, str]]:
    """Read passages and check each one; of those read before, only a hash of the id is kept (`SeenIds`).

    Args:
        corpus: A file or folder, or the passages themselves: `id` (unique), `title` (may be empty) and `text`, all
            strings. Other fields are not read.

    Returns:
        The passages in order, with just these three fields. A repeated id may be noticed some passages later.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: At the first bad passage, naming its place and field; or if there is no passage at all. An iterator
            cannot be read again to make sure of a repeated id, and is believed to have one where two hashes agree.
    """
    if isinstance(corpus, str | Path):
        corpus = open_corpus(corpus)
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
            again = open_corpus(corpus.path, corpus.format) if isinstance(corpus, CorpusFile) else corpus
            before = next(place for place, row in _located(again) if str(row.get("id")) == passage_id)
        if before == where:
            continue  # another id with the same hash
        raise ValueError(f"{where}: field 'id': {passage_id!r} is that of {before} too; ids must be unique")


def _checked(row: Mapping[str, Any], where: str) -> dict[str, str]:
    for field in _FIELDS:
        if field not in row:
            raise ValueError(f"{where}: field '{field}' is missing; a passage has {', '.join(_FIELDS)}")
        value = text_id(row[field]) if field == "id" else row[field]
        if not isinstance(value, str):
            raise ValueError(f"{where}: field '{field}': found {value!r} ({type(value).__name__}), need a string")
        if field != "title" and not value.strip():
            raise ValueError(f"{where}: field '{field}' is empty; only 'title' may be")
    passage = {"id": str(row["id"]), "title": row["title"], "text": row["text"]}
    try:
        "".join(passage.values()).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{where}: holds half of a surrogate pair, which is not valid Unicode ({error})") from error
    if (length := len(passage["id"].encode())) > _LONGEST_ID:
        raise ValueError(
            f"{where}: field 'id': {passage['id']!r:.80}… has {length:,} bytes in UTF-8; Lucene takes {_LONGEST_ID:,}"
        )
    return passage


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _is_document(path: Path, format: str | None) -> bool:
    """Whether a file is one JSON value over several lines, and not one a line."""
    _check_file(path)
    if format in ("tsv", "tsv_unquoted"):
        return False
    line = next((line.strip() for _, line in read_lines(path) if line.strip()), "")
    return line.startswith("[") or line == "{"


def _check_file(path: str | Path) -> None:
    if not Path(path).is_file():
        raise FileNotFoundError(f"no file {path}")


def _recognized(path: Path) -> str:
    """Return the format that the first line that is not empty has."""
    line = next((line for _, line in read_lines(path) if line.strip()), "")
    try:
        row = parse_json(line)
    except ValueError:
        return "tsv" if "\t" in line and not line.lstrip().startswith("{") else "jsonl"
    return _format_of(row)


def _format_of(row: object) -> str:
    if not isinstance(row, dict) or "id" in row:
        return "contents" if isinstance(row, dict) and "contents" in row and "text" not in row else "jsonl"
    if "wikipedia_id" in row:
        return "kilt"
    return "beir" if "_id" in row else "jsonl"


def _tsv_rows(path: Path, file: io.BufferedReader, quoted: bool) -> Iterator[tuple[str, dict[str, str]]]:
    with path.open("rb") as again:
        first = next((line for _, line in read_lines(path, again) if line.strip() or "\t" in line), "")
    names = first.split("\t")
    if not {"id", "text"} <= set(names):
        if len(names) != 2:
            raise ValueError(
                f"{path}:1: found {len(names)} columns, none of them named id and text; put a first line that names "
                "them, such as id, text, title with tabs between"
            )
        names, quoted = [], False
    columns = names or ["id", "text"]
    rows = read_cells(path, "\t", file, quoted=quoted, remedy=UNQUOTED)
    for number, cells in itertools.islice(rows, 1, None) if names else rows:
        where = f"{path}:{number}"
        if len(cells) != len(columns):
            raise ValueError(f"{where}: found {len(cells)} columns, need {len(columns)}: {', '.join(columns)}")
        yield where, {"title": "", **dict(zip(columns, cells, strict=True))}
