"""The forms in which indexes and corpora keep the title and the text of a passage together."""

import json
import re
from collections.abc import Mapping
from typing import Any


def split_document(document: Mapping[str, Any]) -> tuple[str, str]:
    r"""Return title and text of a document.

    Args:
        document: With `title`, and `contents` that begin with it (indexes of this package), or with the title in
            quotes on the first line of `contents` (Pyserini's `wikipedia-dpr-100w`, FlashRAG's corpora), or with a
            field `text` (Pyserini's BEIR indexes), or with `contents` alone.

    Returns:
        The title, possibly empty, and the text.

    Example:
        >>> split_document({"id": "1", "contents": "\"Aaron\"\nAaron is a prophet."})
        ('Aaron', 'Aaron is a prophet.')
    """
    title = document.get("title", "")
    if "text" in document:
        return title, document["text"]
    contents = document["contents"]
    if "title" in document:
        return title, contents.removeprefix(title + "\n")
    if quoted := re.match(r'"(.*)"\n', contents):
        return quoted[1].replace('""', '"'), contents[quoted.end() :]
    return "", contents


def parse_stored(raw: str | None) -> tuple[str, str]:
    r"""Split a stored document into title and text.

    Args:
        raw: JSON of one of the forms that `split_document` knows.

    Returns:
        The title, possibly empty, and the text.

    Raises:
        ValueError: If nothing is stored, or it is none of these.

    Example:
        >>> parse_stored('{"id": "1", "contents": "\\"Aaron\\"\\nAaron is a prophet."}')
        ('Aaron', 'Aaron is a prophet.')
    """
    if raw is None:
        raise ValueError("the index does not store its texts; use one that does ('wikipedia-dpr-100w', not '…-slim')")
    try:
        document = json.loads(raw)
    except ValueError as error:
        raise ValueError(f"the stored document is not JSON: {raw[:80]!r}") from error
    if not isinstance(document, dict) or not {"text", "contents"} & document.keys():
        raise ValueError(f"the stored document has no field 'contents' or 'text': {raw[:80]!r}")
    return split_document(document)
