"""BM25 by Pyserini: building, opening and searching real Lucene indexes."""

import contextlib
import difflib
import errno
import hashlib
import json
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.progress import MofNCompleteColumn, TextColumn

from dro_trl.files.folders import check_replaceable, whole_folder
from dro_trl.files.writing import load_json, load_object, write_json
from dro_trl.retrieval.base import Retriever
from dro_trl.retrieval.corpus import CorpusFile, open_corpus, parse_stored, read_corpus
from dro_trl.retrieval.jvm import JavaError, JavaProcess
from dro_trl.retrieval.progress import batched, progress_bar
from dro_trl.types import Passage

_METADATA = "dro_trl_index.json"
_VERIFIED = ".dro_trl_verified.json"
_LUCENE_FILE = re.compile(
    r"write\.lock|segments_\w+|_[0-9a-z]+(_\w+)?\.(cf[es]|doc|dv[dm]|fd[tmx]|fnm|kd[dim]|liv|nv[dm]|pos|pay|psm|si"
    r"|ti[mp]|tmd|tv[dmx]|ve[cmqx]\w?)"
)
_DOCUMENTS_PER_REQUEST = 1_000
_QUESTIONS_PER_REQUEST, _PASSAGES_PER_REQUEST = 256, 10_000


class PyseriniRetriever(Retriever):
    """BM25 over a Lucene index, searched in a process of its own.

    Scores are Lucene's BM25 as Anserini reports it: rounded to four decimals, and lowered by about 1e-6 for each
    passage that would tie with the one above it (ties are ordered by id).

    Its files are held against Lucene's checksums when it is first opened, and again once they have changed;
    `seconds_of_checksums` says how long that took, None where it was done before.

    Args:
        index: Folder of a Lucene index that stores its documents as JSON.
        k1: BM25's term-frequency saturation, >= 0.
        b: BM25's length normalisation, between 0 and 1.
        threads: Search threads; all cores by default. Results do not depend on it.

    Raises:
        FileNotFoundError: If the folder is missing.
        ValueError: If the folder holds no readable Lucene index, or an option is out of range.
        RuntimeError: If there is no usable Java.

    Example:
        ```python
        with PyseriniRetriever.build("corpus.jsonl", "index") as retriever:
            [passages] = retriever.retrieve(["who discovered radium"], k=5)
        ```
    """

    def __init__(self, index: str | Path, *, k1: float = 0.9, b: float = 0.4, threads: int | None = None) -> None:
        _check_options(k1, b, threads)
        self.index = Path(index).resolve()
        self.k1, self.b = float(k1), float(b)
        self.threads = threads or os.cpu_count() or 1
        self._identity, recorded = _index_identity(self.index)
        self._java = JavaProcess()
        try:
            self.seconds_of_checksums = self._verify()
            self.num_passages: int = self._java.request("open", index_dir=str(self.index), k1=self.k1, b=self.b)
        except JavaError as error:
            self.close()
            raise ValueError(
                f"{self.index} holds a Lucene index that is corrupt or of another Lucene version ({error}); "
                "build it again with `dro-trl index --overwrite`"
            ) from error
        if recorded not in (None, self.num_passages):
            self.close()
            raise ValueError(
                f"{self.index / _METADATA} speaks of {recorded} passages and the index holds {self.num_passages}; "
                "build it again with `dro-trl index --overwrite`"
            )
        decided_by = json.dumps([self._identity, self.num_passages, self.k1, self.b])
        self.fingerprint: str = hashlib.sha256(decided_by.encode()).hexdigest()

    def _verify(self) -> float | None:
        """Hold the files against Lucene's checksums, unless done since they changed; return the seconds it took."""
        found = [path.stat() for path in self.index.iterdir() if _LUCENE_FILE.fullmatch(path.name)]
        # The time of change, unlike that of modification, cannot be set back.
        changed, size = max(one.st_ctime_ns for one in found), sum(one.st_size for one in found)
        state = {"files": len(found), "changed": changed, "bytes": size}
        record = self.index / _VERIFIED
        with contextlib.suppress(OSError, ValueError):
            if load_json(record, "") == state:
                return None
        start = time.monotonic()
        self._java.request("verify", index_dir=str(self.index))
        with contextlib.suppress(OSError):  # Others may own the folder: it is done each time then.
            write_json(record, state)
        return time.monotonic() - start

    @classmethod
    def from_prebuilt(cls, name: str, *, k1: float = 0.9, b: float = 0.4, threads: int | None = None) -> Self:
        """Open one of Pyserini's prebuilt indexes, downloading it at the first use.

        Args:
            name: Its name, such as `"wikipedia-dpr-100w"`.
            k1: As in the constructor.
            b: As in the constructor.
            threads: As in the constructor.

        Raises:
            ValueError: If Pyserini knows no such index; the message names the nearest.
            ConnectionError: If it cannot be downloaded.
        """
        with JavaProcess() as java:
            names: list[str] = java.request("prebuilt_names")
        if name not in names:
            near = difflib.get_close_matches(name, names, n=5, cutoff=0.4)
            raise ValueError(f"unknown prebuilt index '{name}'; the nearest known are {', '.join(near or names)}")
        # Gigabytes may come: let the download show its progress.
        with JavaProcess(quiet=False) as java:
            try:
                folder = java.request("download", name=name)
            except JavaError as error:
                raise ConnectionError(f"could not download the prebuilt index '{name}': {error}") from error
        return cls(folder, k1=k1, b=b, threads=threads)

    @classmethod
    def build(
        cls,
        corpus: str | Path | CorpusFile | Iterable[Mapping[str, str]],
        index_dir: str | Path,
        *,
        overwrite: bool = False,
        k1: float = 0.9,
        b: float = 0.4,
        threads: int | None = None,
        progress: bool = True,
    ) -> Self:
        """Index a corpus (titles and texts together) and open the index; a build that fails leaves nothing behind.

        The corpus is read one passage at a time, and 8 bytes are kept of each. What a killed build leaves beside
        `index_dir` is removed by the next one.

        Args:
            corpus: A file or folder of a format that `CorpusFile` reads, or passages, with the strings `id` (unique),
                `title` (may be empty) and `text`.
            index_dir: The folder to create.
            overwrite: Replace the index that is there.
            k1: As in the constructor; not part of the index.
            b: As in the constructor; not part of the index.
            threads: Threads to index and search with; all cores by default.
            progress: Show a bar, if standard error is a terminal.

        Raises:
            FileExistsError: If the folder is not empty and `overwrite` is off, or it holds something else.
            FileNotFoundError: If there is no such corpus file.
            OSError: If the disk is full.
            ValueError: If a passage is faulty; the message names its place and field.
            RuntimeError: If there is no usable Java, or its heap is too small.
        """
        _check_options(k1, b, threads)
        target = Path(index_dir).resolve()
        _check_target(target, overwrite)
        with whole_folder(target, _is_of_an_index) as partial:
            try:
                _write_index(corpus, partial, threads or os.cpu_count() or 1, progress)
            except JavaError as error:
                if full := re.search("No space left on device|Disk quota exceeded|File too large", str(error)):
                    raise OSError(errno.ENOSPC, f"{full[0]}; nothing is left of the new index", str(target)) from error
                raise
        return cls(target, k1=k1, b=b, threads=threads)

    def retrieve(self, questions: Sequence[str], k: int) -> list[list[Passage]]:
        """Find the best passages for each question.

        Args:
            questions: The questions, none empty.
            k: Passages wanted for each, at least 1.

        Returns:
            For each question in order, up to `k` passages, best first; only passages that share a term with the
            question are found, so the list is empty for one that consists of stopwords.

        Raises:
            ValueError: If `k` is below 1, a question is empty, or the index does not store its documents as JSON.
            RuntimeError: If the Java process died.
        """
        if isinstance(questions, str):
            raise TypeError(f"questions must be a list, got the string {questions!r}; pass [{questions!r}]")
        questions = list(_checked(questions, k))
        found: list[list[Passage]] = []
        with progress_bar(MofNCompleteColumn(), enabled=len(questions) > _QUESTIONS_PER_REQUEST) as bar:
            task = bar.add_task("retrieving", total=len(questions))
            for batch in self.retrieve_batches(questions, k):
                found += batch
                bar.update(task, completed=len(found))
        return found

    def retrieve_batches(self, questions: Iterable[str], k: int) -> Iterator[list[list[Passage]]]:
        """Find what `retrieve` finds, for any number of questions in little memory.

        Args:
            questions: As for `retrieve`; read up to two batches ahead, which Lucene searches for meanwhile.
            k: As for `retrieve`.

        Yields:
            What `retrieve` returns, for the next questions, at most 256 and about 10,000 passages.

        Raises:
            ValueError: As `retrieve` does, once it comes to the question.
            RuntimeError: If the Java process died, or its heap is too small.
        """
        size = max(1, min(_QUESTIONS_PER_REQUEST, _PASSAGES_PER_REQUEST // max(k, 1)))
        batches = batched(_checked(questions, k), size)
        calls = ({"questions": batch, "k": k, "threads": self.threads} for batch in batches)
        for found in self._java.each("search", calls):
            yield [[self._passage(*hit) for hit in hits] for hits in found]

    def passages(self, ids: Sequence[str]) -> list[Passage]:
        """Return the passages with these ids, in their order, with a score of 0.

        Raises:
            ValueError: If the index holds no such passage, or does not store its documents as JSON.
            RuntimeError: If the Java process died.
        """
        stored = [
            raw for batch in batched(ids, _DOCUMENTS_PER_REQUEST) for raw in self._java.request("documents", ids=batch)
        ]
        if absent := [id for id, raw in zip(ids, stored, strict=True) if raw is None]:
            raise ValueError(f"{self.index} holds no passage {absent[0]!r} ({len(absent)} of {len(ids)} are missing)")
        return [self._passage(id, 0.0, raw) for id, raw in zip(ids, stored, strict=True)]

    def _passage(self, id: str, score: float, raw: str | None) -> Passage:
        try:
            title, text = parse_stored(raw)
        except ValueError as error:
            raise ValueError(f"{self.index}: passage '{id}': {error}") from error
        return Passage(id=id, title=title, text=text, score=score)

    def analyze(self, texts: Sequence[str]) -> list[list[str]]:
        """Return the terms that Lucene sees in each text: lower case, stemmed, without stopwords."""
        terms: list[list[str]] = []
        for batch in batched(texts, _DOCUMENTS_PER_REQUEST):
            terms += self._java.request("analyze", texts=batch)
        return terms

    def close(self) -> None:
        """End the Java process; the retriever cannot be used afterwards."""
        self._java.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _check_options(k1: float, b: float, threads: int | None) -> None:
    if not 0 <= k1 < float("inf"):
        raise ValueError(f"k1 must be a number >= 0, got {k1}")
    if not 0 <= b <= 1:
        raise ValueError(f"b must be between 0 and 1, got {b}")
    if threads is not None and threads < 1:
        raise ValueError(f"threads must be at least 1, got {threads}")


def _index_identity(folder: Path) -> tuple[str, int | None]:
    """Return what the passages of an index are known by, and how many its record says there are, if it has one."""
    if not folder.is_dir():
        raise FileNotFoundError(
            f"no index folder {folder}; build one with `dro-trl index --corpus corpus.jsonl --index_dir {folder}`"
        )
    segments = sorted(folder.glob("segments_*"))
    if not segments:
        raise ValueError(f"{folder} holds no Lucene index (no file segments_*); give the folder that the index is in")
    metadata, remedy = folder / _METADATA, "build the index again with `dro-trl index --overwrite`"
    if metadata.is_file():
        record = load_object(metadata, remedy, "corpus_sha256", "passages")
        digest, passages = str(record["corpus_sha256"]), record["passages"]
        if not re.fullmatch("[0-9a-f]{64}", digest) or type(passages) is not int:
            raise ValueError(f"{metadata} is damaged: corpus_sha256 or passages cannot be what it is; {remedy}")
        return digest, passages
    # Lucene writes a random id into this file at every commit.
    return hashlib.sha256(segments[-1].read_bytes()).hexdigest(), None


def _check_target(target: Path, overwrite: bool) -> None:
    if target.exists() and not target.is_dir():
        raise FileExistsError(f"{target} is a file; give the path of a folder")
    if not target.exists() or not any(target.iterdir()):
        return
    check_replaceable(target, _is_of_an_index)  # First: what holds other files is never replaced.
    if not overwrite:
        raise FileExistsError(f"{target} holds an index; pass overwrite=True (--overwrite) or give another folder")


def _is_of_an_index(path: Path) -> bool:
    """Whether a file in an index's folder is one that Lucene or `build` writes."""
    return path.name == str(path) and (path.name in (_METADATA, _VERIFIED) or bool(_LUCENE_FILE.fullmatch(path.name)))


def _write_index(
    corpus: str | Path | CorpusFile | Iterable[Mapping[str, str]], folder: Path, threads: int, progress: bool
) -> None:
    start = time.monotonic()
    digest, count = hashlib.sha256(), 0
    if isinstance(corpus, str | Path):
        corpus = open_corpus(corpus)
    with (
        JavaProcess() as java,
        progress_bar(TextColumn("{task.fields[passages]:,} passages"), enabled=progress) as bar,
    ):
        task = bar.add_task("indexing", total=_length(corpus), passages=0)
        java.request("create", index_dir=str(folder), threads=threads)
        for batch in batched(read_corpus(corpus), _DOCUMENTS_PER_REQUEST):
            documents = [json.dumps(_stored(passage)) for passage in batch]
            digest.update("\n".join([*documents, ""]).encode())
            java.request("add", documents=documents)
            count += len(documents)
            done = corpus.bytes_read if isinstance(corpus, CorpusFile) else count
            bar.update(task, completed=done, passages=count)
        readable = java.request("commit", index_dir=str(folder))
    if readable != count:
        raise RuntimeError(f"{readable} of {count} passages can be read back from the new index; is the disk full?")
    metadata = {
        "passages": count,
        "corpus_sha256": digest.hexdigest(),
        "seconds": round(time.monotonic() - start, 2),
    }
    write_json(folder / _METADATA, metadata)


def _stored(passage: Mapping[str, str]) -> dict[str, str]:
    title = passage["title"]
    return {"id": passage["id"], "title": title, "contents": f"{title}\n{passage['text']}"}


def _length(corpus: Iterable[Mapping[str, str]]) -> int | None:
    """Return the bytes of a file, the number of passages of a list, `None` of what is not known before."""
    if isinstance(corpus, CorpusFile):
        return corpus.num_bytes
    return len(corpus) if isinstance(corpus, Sequence) else None


def _checked(questions: Iterable[str], k: int) -> Iterator[str]:
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    for number, question in enumerate(questions):
        if not isinstance(question, str) or not question.strip():
            raise ValueError(f"question {number} is {question!r}; a non-empty string is needed")
        try:
            question.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"question {number} holds half of a surrogate pair: {error}") from error
        yield question
