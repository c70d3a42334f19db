"""The program that holds the JVM: it reads one JSON request a line and writes one pickled reply to each.

It is run by path, so it imports nothing of this package. It calls the Lucene classes that Pyserini wraps, not the
wrappers: importing `pyserini.search.lucene` takes ten seconds, loads torch, and fails without an OPENAI_API_KEY.
"""

import json
import os
import pickle
import queue
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

_CAUSES = ("OutOfMemoryError", "No space left on device", "Disk quota exceeded", "File too large")


class Worker:
    """What can be asked of the JVM; each public method is a command."""

    def __init__(self, *, vector_module: bool) -> None:
        self._class = _start_jvm(vector_module)
        self._searcher: Any = None
        self._indexer: Any = None
        # Lucene refuses a question of more than 1,024 distinct words otherwise.
        self._class("org.apache.lucene.search.IndexSearcher").setMaxClauseCount(2**20)

    def open(self, index_dir: str, k1: float, b: float) -> int:
        """Open an index and return its number of passages."""
        self._searcher = self._class("io.anserini.search.SimpleSearcher")(index_dir)
        self._searcher.set_bm25(k1, b)
        return int(self._searcher.get_total_num_docs())

    def verify(self, index_dir: str) -> None:
        """Hold every file of an index against the checksum that Lucene wrote at its end."""
        folder = self._class("java.io.File")(index_dir).toPath()
        directory = self._class("org.apache.lucene.store.FSDirectory").open(folder)
        infos = self._class("org.apache.lucene.index.SegmentInfos").readLatestCommit(directory)
        once = self._class("org.apache.lucene.store.IOContext").READONCE
        codec = self._class("org.apache.lucene.codecs.CodecUtil")
        for name in infos.files(True).toArray():
            file = directory.openInput(name, once)
            codec.checksumEntireFile(file)
            file.close()
        directory.close()

    def search(self, questions: list[str], k: int, threads: int) -> Any:
        """Return what Lucene finds for each question, which `read_hits` reads."""
        java_list = self._class("java.util.ArrayList")
        texts, keys = java_list(), java_list()
        for number, question in enumerate(questions):
            texts.add(question)
            keys.add(str(number))
        try:
            found = self._searcher.batch_search(texts, keys, k, threads)
            return [found.get(str(number)) for number in range(len(questions))]
        except Exception:
            # A thread failed, and Anserini only counts those that did not. What it was is told without threads.
            return [self._searcher.search(question, k) for question in questions]

    def read_hits(self, ranked: Any) -> list[list[tuple[str, float, str | None]]]:
        """Return for each question its best passages: id, score, stored JSON (`None` where none was stored)."""
        return [[(hit.docid, hit.score, hit.lucene_document.get("raw")) for hit in hits] for hits in ranked]

    def documents(self, ids: list[str]) -> list[str | None]:
        """Return the stored JSON of the passages with these ids, `None` where there is no such passage."""
        found = [self._searcher.doc(id) for id in ids]
        return [None if document is None else document.get("raw") for document in found]

    def analyze(self, texts: list[str]) -> list[list[str]]:
        """Return the terms that Lucene indexes or searches for each text."""
        analyzer = self._class("io.anserini.index.IndexCollection").DEFAULT_ANALYZER
        analyze = self._class("io.anserini.analysis.AnalyzerUtils").analyze
        return [list(analyze(analyzer, text).toArray()) for text in texts]

    def create(self, index_dir: str, threads: int) -> None:
        """Begin a new index."""
        options = ["-index", index_dir, "-input", "", "-collection", "JsonCollection", "-storeRaw"]
        # Anserini's 4 GiB would fill a smaller heap before anything is written out of it.
        buffer = min(4096, max(1, self.heap() // 2**20 // 4))
        options += ["-threads", str(threads), "-memoryBuffer", str(buffer)]
        self._indexer = self._class("io.anserini.index.SimpleIndexer")(options)

    def add(self, documents: list[str]) -> None:
        """Add JSON documents with `id` and `contents` to the new index."""
        self._indexer.addRawDocuments(documents)

    def commit(self, index_dir: str) -> int:
        """Finish the new index and return the number of passages that can be read back from it."""
        self._indexer.close()
        return self.open(index_dir, 0.9, 0.4)

    def heap(self) -> int:
        """Return the bytes that Java's heap may grow to."""
        return int(self._class("java.lang.Runtime").getRuntime().maxMemory())

    def prebuilt_names(self) -> list[str]:
        """Return the names of the BM25 indexes that Pyserini offers for download."""
        from pyserini.prebuilt_index_info import TF_INDEX_INFO

        return sorted(TF_INDEX_INFO)

    def download(self, name: str) -> str:
        """Download a prebuilt index, unless it is there already, and return its folder."""
        from pyserini.util import download_prebuilt_index

        try:
            return str(download_prebuilt_index(name))
        except FileNotFoundError as error:  # It prints what the server says, and then looks for the file.
            raise RuntimeError("the server does not give it; what it says instead stands above") from error


def _start_jvm(vector_module: bool) -> Any:
    import jnius_config
    import pyserini
    from pyserini.setup import configure_classpath

    jars = os.environ.get("ANSERINI_CLASSPATH", str(Path(pyserini.__file__).parent / "resources" / "jars"))
    configure_classpath(jars)
    if not vector_module:
        options = jnius_config.get_options()
        jnius_config.set_options(*(option for option in options if "jdk.incubator.vector" not in option))
    from jnius import autoclass  # the JVM starts here

    return autoclass


def _read_requests(worker: Worker, calls: "queue.SimpleQueue[Callable[[], Any]]") -> None:
    lucene = ThreadPoolExecutor(1)
    for line in sys.stdin:
        request = json.loads(line)
        call = partial(getattr(worker, request.pop("command")), **request)
        if call.func == worker.search:
            # It begins at once, so that Lucene searches while the hits of the questions before are read.
            calls.put(partial(lambda found: worker.read_hits(found.result()), lucene.submit(call)))
        else:
            calls.put(call)
    # The parent closed the pipe or died: whatever is running has nobody to answer to.
    os._exit(0)


def _describe(error: Exception) -> str:
    if class_name := getattr(error, "classname", None):  # jnius.JavaException
        said = f"{class_name}: {getattr(error, 'innermessage', '')}"
        # Lucene's writer closes when a thread of it fails, and then says no more than that.
        lines = (line.strip() for line in getattr(error, "stacktrace", None) or [])
        cause = next((line for line in lines if any(sign in line for sign in _CAUSES)), "")
        return f"{said} ({cause})" if cause else said
    return f"{type(error).__name__}: {error}"


def main() -> None:
    """Answer requests until standard input closes."""
    # Java and Pyserini print to standard output; replies get a descriptor that neither knows.
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    worker = Worker(vector_module=sys.argv[1] == "vector")
    calls: queue.SimpleQueue[Callable[[], Any]] = queue.SimpleQueue()
    threading.Thread(target=_read_requests, args=(worker, calls), daemon=True).start()
    while True:
        try:
            reply = {"result": calls.get()()}
        except Exception as error:
            reply = {"error": _describe(error), "heap": worker.heap()}
        pickle.dump(reply, replies, pickle.HIGHEST_PROTOCOL)
        replies.flush()


if __name__ == "__main__":
    main()
