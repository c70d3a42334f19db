"""`dro-trl index`: build a BM25 index from a corpus."""

import contextlib
import signal
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer


class CorpusFormat(StrEnum):
    """The formats of a corpus."""

    jsonl = "jsonl"
    beir = "beir"
    contents = "contents"
    kilt = "kilt"
    tsv = "tsv"
    tsv_unquoted = "tsv_unquoted"


def main(
    corpus: Annotated[
        Path,
        typer.Option(
            "--corpus",
            help="File of passages, or folder of such files, such as JSONL with id (unique), title and text.",
        ),
    ],
    index_dir: Annotated[Path, typer.Option("--index_dir", help="Folder to create for the index.")],
    format: Annotated[
        CorpusFormat | None, typer.Option("--format", help="Of the corpus; recognised from its content by default.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the index that is there.")] = False,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="Threads; all cores by default.")] = None,
) -> None:
    """Build a BM25 index with Lucene from a corpus of passages."""
    import time

    from dro_trl.files.wording import counted
    from dro_trl.retrieval.corpus import open_corpus
    from dro_trl.retrieval.pyserini import PyseriniRetriever

    start = time.monotonic()
    file = open_corpus(corpus, format)
    typer.echo(
        f"reading {corpus} as {file.format}" + ("" if format else ", by its first line (--format overrules it)")
    )
    with (
        cleaning_up_when_terminated(),
        PyseriniRetriever.build(file, index_dir, overwrite=overwrite, threads=threads) as retriever,
    ):
        passages, seconds = retriever.num_passages, time.monotonic() - start
        checked = retriever.seconds_of_checksums or 0.0
    for what, count in file.counts.items():
        typer.echo(f"{what}: {count:,}")
    typer.echo(
        f"indexed {counted(passages, 'passage')} in {seconds:.1f} s, {checked:.1f} s of them to check what was written"
    )
    typer.echo(f"wrote {index_dir} (figures in {index_dir / 'dro_trl_index.json'})")


@contextlib.contextmanager
def cleaning_up_when_terminated() -> Iterator[None]:
    """Let SIGTERM, which would end the process on the spot, unwind it as an interruption does."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
