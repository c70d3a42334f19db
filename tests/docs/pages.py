"""The pages of the documentation, and the code that they show."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


class Code(NamedTuple):
    text: str
    language: str = ""
    inline: bool = False


def tokens(page: Path) -> Iterator[Token]:
    """Yield the parts of a page, those within a line too."""
    for token in MarkdownIt("commonmark").enable("table").parse(page.read_text(encoding="utf-8")):
        yield token
        yield from token.children or ()


def code_of(page: Path) -> Iterator[Code]:
    """Yield the code of a page in order."""
    for token in tokens(page):
        if token.type in ("fence", "code_block"):
            yield Code(token.content, token.info)
        elif token.type == "code_inline":
            yield Code(token.content, inline=True)


def commands_of(code: Code) -> list[str]:
    """Return the commands of an indented block or one of `bash`, without comments, one space between words."""
    if code.inline or code.language not in ("", "bash"):
        return []
    lines = re.sub(r"\\\n", " ", code.text).splitlines()
    return [" ".join(line.split()) for line in (re.sub(r"(^|\s)#.*", "", line) for line in lines) if line.strip()]
