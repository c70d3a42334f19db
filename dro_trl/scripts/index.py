"""`dro-trl index`: build a BM25 index from a corpus."""

from pathlib import Path
from typing import Annotated

import typer


def main(
    corpus: Annotated[
        Path, typer.Option("--corpus", help="JSONL file of passages: id (unique), title (may be empty), text.")
    ],
    index_dir: Annotated[Path, typer.Option("--index_dir", help="Folder to create for the index.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the index that is there.")] = False,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="Threads; all cores by default.")] = None,
) -> None:
    """Build a BM25 index with Lucene from a corpus of passages."""
    import time

    from dro_trl.retrieval.pyserini import PyseriniRetriever

    start = time.monotonic()
    with PyseriniRetriever.build(corpus, index_dir, overwrite=overwrite, threads=threads) as retriever:
        passages, seconds = retriever.num_passages, time.monotonic() - start
    typer.echo(f"indexed {passages:,} passages in {seconds:.1f} s")
    typer.echo(f"wrote {index_dir} (figures in {index_dir / 'dro_trl_index.json'})")
