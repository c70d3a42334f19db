"""Opening a retriever by what a command line names."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dro_trl.retrieval.questions import QuestionRows
    from dro_trl.retrieval.stored_run import StoredRun


def passage_source(
    index_dir: Path | None,
    prebuilt: str | None,
    corpus: Path | None,
    k1: float,
    b: float,
    threads: int | None,
    run: "StoredRun | None",
    rows: "QuestionRows | None",
) -> AbstractContextManager[Any]:
    """Open the one that is given of an index, a prebuilt index and a corpus; a corpus cannot retrieve.

    Args:
        index_dir: Folder of an index.
        prebuilt: Name of a prebuilt index.
        corpus: File or folder of passages; those are kept of it that are asked for.
        k1: As `PyseriniRetriever` takes it.
        b: As `PyseriniRetriever` takes it.
        threads: As `PyseriniRetriever` takes it.
        run: What asks for passages of a corpus.
        rows: Whose gold passages are asked for as well.
    """
    from dro_trl.retrieval.adding import gold_ids
    from dro_trl.retrieval.corpus import open_corpus
    from dro_trl.retrieval.pyserini import PyseriniRetriever

    if corpus is not None:
        assert run is not None
        return nullcontext(run.passages_of(open_corpus(corpus), str(corpus), gold_ids(rows) if rows else []))
    if index_dir is not None:
        return PyseriniRetriever(index_dir, k1=k1, b=b, threads=threads)
    return PyseriniRetriever.from_prebuilt(str(prebuilt), k1=k1, b=b, threads=threads)
