"""How much a request may hold."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import HTTPException


@dataclass(frozen=True)
class Limits:
    """What a server takes of one client."""

    passages: int = 1000
    """In a request."""
    characters: int = 20_000
    """Of a question, a passage or a title."""
    new_tokens: int = 256
    """Of an answer."""
    body_bytes: int = 16 * 2**20
    waiting: int = 256
    """Requests that may wait for the models."""

    def check(self, question: str, documents: Sequence[Any], field: str, new_tokens: int = 0) -> None:
        """Refuse what is more.

        Args:
            question: The question.
            documents: Texts, or objects with `text` and `title`.
            field: What the request calls them.
            new_tokens: Longest answer that is asked for.

        Raises:
            HTTPException: Of status 422; says which limit, and what was given.
        """
        if len(documents) > self.passages:
            raise refused(f"{field}: {len(documents)} are more than this server reads at once, {self.passages}")
        if new_tokens > self.new_tokens:
            raise refused(f"max_new_tokens: {new_tokens} is more than this server writes, {self.new_tokens}")
        texts = [("the question", question)]
        for i, one in enumerate(documents):
            given = {"text": one} if isinstance(one, str) else one
            texts += [(f"{field}[{i}].{part}", given.get(part) or "") for part in ("text", "title")]
        for name, text in texts:
            if len(text) > self.characters:
                raise refused(f"{name} has {len(text)} characters, more than this server reads, {self.characters}")


def refused(why: str, status: int = 422) -> HTTPException:
    """Return the error that refuses a request."""
    return HTTPException(status, why)


class BodyLimit:
    """Refuses bodies of more bytes, once so many have come.

    Args:
        app: What answers the others.
        max_bytes: Of a body.
    """

    def __init__(self, app: Any, max_bytes: int) -> None:
        self.app, self.max_bytes = app, max_bytes

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request."""
        read = 0

        async def limited() -> Any:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self.max_bytes:
                raise refused(f"the body has more than {self.max_bytes} bytes", 413)
            return message

        await self.app(scope, limited if scope["type"] == "http" else receive, send)
