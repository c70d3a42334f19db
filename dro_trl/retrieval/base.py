"""What a retriever is."""

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Protocol, runtime_checkable

from dro_trl.types import Passage

QUESTIONS_PER_BATCH = 256


@runtime_checkable
class Retriever(Protocol):
    """Anything that finds passages for questions: a subclass with `retrieve`; what follows it has defaults."""

    fingerprint: str | None = None
    """What decides which passages are found: candidates are kept and found again by it. None where they are not."""

    @abstractmethod
    def retrieve(self, questions: Sequence[str], k: int) -> list[list[Passage]]:
        """Return, for each question in order, its `k` best passages, best first (fewer where the corpus has fewer)."""

    def retrieve_batches(self, questions: Iterable[str], k: int) -> Iterator[list[list[Passage]]]:
        """Yield what `retrieve` finds, for some of any number of questions at a time."""
        waiting = iter(questions)
        while batch := list(islice(waiting, QUESTIONS_PER_BATCH)):
            yield self.retrieve(batch, k)

    def passages(self, ids: Sequence[str]) -> list[Passage]:
        """Return the passages with these ids, in their order, with a score of 0.

        Raises:
            ValueError: If there is no such passage, or none is found by its id.
        """
        raise ValueError(f"{type(self).__name__} finds no passages by their ids; give it a method `passages`")

    def close(self) -> None:
        """Give back what the retriever holds; it cannot be used afterwards."""
        return


def check_retriever(retriever: object) -> None:
    """Refuse what lacks something that a `Retriever` has.

    Raises:
        ValueError: Names it.
    """
    asked = ("retrieve", "retrieve_batches", "passages", "fingerprint", "close")
    if missing := [name for name in asked if not hasattr(retriever, name)]:
        raise ValueError(
            f"the retriever {type(retriever).__name__} has no {', '.join(missing)}; make it a subclass of "
            "dro_trl.Retriever, which has defaults for all but retrieve"
        )
