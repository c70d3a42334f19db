"""What requests hold."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Document(BaseModel):
    """A passage: its text, and where there are its title and the retriever's score; other fields are not read."""

    text: str
    title: str | None = None
    score: float | None = None
    id: str | int | None = None


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class RankRequest(_Strict):
    """A question and its passages, as `Selector.rank` takes them."""

    query: str
    documents: list[str | Document]
    top_k: int | None = Field(None, ge=1)
    return_documents: bool = False


class AnswerRequest(_Strict):
    """A question to answer, from the given passages or from those that the retriever finds."""

    question: str
    passages: list[str | Document] | None = None
    max_new_tokens: int | None = Field(None, ge=1)


class RerankRequest(BaseModel):
    """A body of the rerank endpoints of Cohere, Jina and vLLM; fields that are not among these are not read."""

    query: str
    documents: list[str | Document]
    top_n: int | None = Field(None, ge=1)
    return_documents: bool = True
    model: str | None = None


def plain(documents: list[str | Document]) -> list[Any]:
    """Return documents as `Selector.rank` takes them."""
    return [one if isinstance(one, str) else one.model_dump(exclude_none=True) for one in documents]
