"""Requests of RankLLM, a question and its candidates each, as its objects or as the JSON that it writes."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from dro_trl.selector import Selector

TEXT_KEYS = ("text", "segment", "contents", "content", "body", "passage")
"""Where RankLLM looks for the text of a candidate's document, in its order."""


def rerank(selector: Selector, requests: Sequence[Any], top_k: int | None = None, batch_size: int = 8) -> list[Any]:
    """Return the requests with their candidates ranked anew, scored by the selector.

    Args:
        selector: The selector.
        requests: `rank_llm.data.Request`s, or what their JSON holds: `query` (`text`, `qid`) and `candidates`
            (`docid`, `score`, `doc`).
        top_k: How many candidates to keep; all where None.
        batch_size: Questions in a batch.

    Returns:
        Copies, of the kind given; `rank_llm.data.DataWriter` writes them.

    Raises:
        ValueError: If a candidate has no text, or as `Selector.rank`.
    """
    questions = [_of(_of(request, "query"), "text") for request in requests]
    candidates = [_of(request, "candidates") for request in requests]
    documents = [[_document(one, f"requests[{i}]") for one in found] for i, found in enumerate(candidates)]
    ranked = selector.rank(questions, documents, top_k, batch_size=batch_size)
    kept = [
        [_changed(found[one["corpus_id"]], score=one["score"]) for one in ranking]
        for found, ranking in zip(candidates, ranked, strict=True)
    ]
    return [_changed(request, candidates=found) for request, found in zip(requests, kept, strict=True)]


def _of(thing: Any, name: str) -> Any:
    return thing[name] if isinstance(thing, Mapping) else getattr(thing, name)


def _document(candidate: Any, where: str) -> dict[str, Any]:
    doc = _of(candidate, "doc")
    key = next((key for key in TEXT_KEYS if key in doc), None)
    if key is None:
        raise ValueError(
            f"{where}: the document of candidate {_of(candidate, 'docid')!r} has none of {', '.join(TEXT_KEYS)}"
        )
    return {"text": doc[key], "title": doc.get("title"), "score": _of(candidate, "score")}


def _changed(thing: Any, **values: Any) -> Any:
    """Return a copy of an object, or of its JSON, with other values."""
    if isinstance(thing, Mapping):
        return {**thing, **values}
    found = copy.copy(thing)
    for name, value in values.items():
        setattr(found, name, value)
    return found
