"""What a retriever is."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from dro_trl.types import Passage


@runtime_checkable
class Retriever(Protocol):
    """Anything that finds passages for questions."""

    def retrieve(self, questions: Sequence[str], k: int) -> list[list[Passage]]:
        """Return, for each question in order, its `k` best passages, best first (fewer where the corpus has fewer)."""
        ...
