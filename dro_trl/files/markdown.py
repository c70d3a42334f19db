"""Texts of others put into Markdown, which none of them can break out of."""

import re
from typing import Any

_INLINE = re.compile(r"[\\`*|~]|(?<![^\W_])_|_(?![^\W_])|(?<=])[(\[:]")
"""What has a meaning inside a line. An underscore inside a word has none, nor have brackets but for what follows."""
_AT_START = re.compile(r"(#{1,6}(?= |$)|[+-](?= |$)|[=-](?=[=-]*$)|- ?-)|(\d{1,9})(?=[.)](?: |$))")
"""What has a meaning at the start of a line."""
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def text(value: Any) -> str:
    r"""Return a text as one line of a paragraph, a heading or a table's cell: what has a meaning there is escaped.

    >>> text("a|b <b> *c* snake_case")
    'a\\|b &lt;b&gt; \\*c\\* snake_case'
    """
    line = _INLINE.sub(r"\\\g<0>", " ".join(str(value).split()))
    if found := _AT_START.match(line):
        at = 0 if found[1] else found.end()
        line = f"{line[:at]}\\{line[at:]}"
    # At the end of a heading, signs without a space behind them are part of its text.
    line = re.sub(r"(?<= )#+$", r"\\\g<0>", line)
    return re.sub(r"[&<>]", lambda found: _ENTITIES[found[0]], line)


def label(value: Any) -> str:
    """Return a text for between brackets, such as that of an image."""
    return re.sub(r"(?<=])\\\[|[\[\]]", lambda found: f"&#{ord(found[0][-1])};", text(value))


def code(value: Any) -> str:
    """Return a value as code inside a line, whatever backticks it holds."""
    line = " ".join(str(value).split())
    ticks = "`" * _longer_than_any(line, 1)
    space = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{ticks}{space}{line}{space}{ticks}"


def code_cell(value: Any) -> str:
    """Return a value as code for a table's cell."""
    return code(value).replace("|", "\\|")


def block(value: Any, language: str = "") -> str:
    """Return lines as a block of code, behind a fence that none of them ends."""
    fence = "`" * _longer_than_any(str(value), 3)
    return f"{fence}{language}\n{value}\n{fence}"


def _longer_than_any(value: str, least: int) -> int:
    return max([least, *(len(run) + 1 for run in re.findall("`+", value))])
