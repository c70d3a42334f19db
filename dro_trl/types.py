"""The values that flow through a run. Each is plain JSON data: it can be printed, saved and tested alone."""

from typing import NotRequired, TypedDict


class Passage(TypedDict):
    """One passage of the corpus, as a retriever returned it."""

    id: str
    """Identifier in the corpus, unique there."""
    title: str
    """Title, possibly empty."""
    text: str
    """Body, never empty."""
    score: float
    """The retriever's score for the question it was retrieved for (BM25: unbounded, higher is better)."""


class Question(TypedDict):
    """One row of a dataset."""

    question: str
    answers: list[str]
    """Aliases of the answer, at least one; the first is the one that training maximises by default."""
    candidates: list[Passage]
    """The retriever's passages, best first, N of them (N may differ between rows)."""
    gold_ids: NotRequired[list[str] | None]
    """Identifiers of the passages that hold the answer, where the source has them."""


Selection = list[int]
"""An ordered K-subset of a row's candidates: zero-based indices in the order in which the generator reads them."""
