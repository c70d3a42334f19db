"""The forms in which indexes and corpora keep the title and the text of a passage together."""

import re
from collections.abc import Mapping
from typing import Any

from dro_trl.files.text_rows import parse_json


def split_document(document: Mapping[str, Any]) -> tuple[str, str]:
    r"""Return title and text of a document.

    Args:
        document: With `title`, and `contents` that begin with it (indexes of this package), or with the title in
            quotes on the first line of `contents` (Pyserini's `wikipedia-dpr-100w`, FlashRAG's corpora), or with a
            field `text` (Pyserini's BEIR indexes), or with `contents` alone. A field that is null is one that is not
            there.

    Returns:
        The title, possibly empty, and the text.

    Raises:
        ValueError: A field is no text, or there is neither `text` nor `contents`.

    Example:
        >>> split_document({"id": "1", "contents": "\"Aaron\"\nAaron is a prophet."})
        ('Aaron', 'Aaron is a prophet.')
    """
    title, text, contents = (document.get(field) for field in ("title", "text", "contents"))
    for field, value in (("title", title), ("text", text), ("contents", contents)):
        if value is not None and not isinstance(value, str):
            raise ValueError(f"field '{field}': found {value!r:.80}, need a string")
    if text is not None:
        return title or "", text
    if contents is None:
        raise ValueError("there is no field 'contents' or 'text'")
    if title is not None:
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
        document = parse_json(raw)
        if not isinstance(document, dict):
            raise ValueError(f"found {type(document).__name__}, need an object")
        return split_document(document)
    except ValueError as error:
        raise ValueError(f"the stored document cannot be read ({error}): {raw[:80]!r}") from error
