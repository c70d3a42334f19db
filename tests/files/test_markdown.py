"""Texts in Markdown, judged by a real parser: what is shown is the text itself, and no markup comes of it."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from dro_trl.files import markdown

PARSER = MarkdownIt("commonmark").enable(["table", "strikethrough"])
TEXTS = st.text(st.sampled_from("ab1 \n\t|\\`*_~[]()<>&#+-=.:!\"'/é"), max_size=25)
HOSTILE = (
    "a|b",
    "\\|",
    "`a`|`",
    "*a* _b_ __c__ snake_case",
    "[a](http://e) ![a](e) [a]: e [a][b]",
    "<script>alert(1)</script>",
    "&lt; &amp;",
    "# a",
    "1. a",
    "1) a",
    "- a",
    "---",
    "===",
    "> a",
    "~~a~~",
    "```\na",
    "a\\",
)


def collapsed(text):
    return " ".join(text.split())


def words(tokens):
    """Return what is shown of inline tokens, and refuse any that is not plain text or code."""
    assert {token.type for token in tokens} <= {"text", "text_special", "code_inline"}
    return "".join(token.content for token in tokens)


@settings(max_examples=300)
@given(TEXTS)
@pytest.mark.parametrize("before", ["", "# ", "- "])
def test_a_text_is_shown_as_it_is(before, text):
    expected = collapsed(text)
    if not expected:
        assert markdown.text(text) == ""
        return
    tokens = PARSER.parse(before + markdown.text(text))
    (inline,) = (token for token in tokens if token.type == "inline")
    assert words(inline.children) == expected
    wanted = {"": ["paragraph"], "# ": ["heading"], "- ": ["bullet_list", "list_item", "paragraph"]}[before]
    assert [token.type.removesuffix("_open") for token in tokens if token.nesting == 1] == wanted


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_text_is_shown_as_it_is(text):
    (inline,) = (token for token in PARSER.parse(markdown.text(text)) if token.type == "inline")
    assert words(inline.children) == collapsed(text)


@settings(max_examples=300)
@given(TEXTS, TEXTS)
@example("a|b", "`|`")
def test_a_cell_stays_a_cell(text, value):
    table = f"| a | b | c |\n|---|---|---|\n| {markdown.text(text)} | {markdown.code_cell(value)} | end |\n"
    tokens = PARSER.parse(table)
    cells = [tokens[at + 1] for at, token in enumerate(tokens) if token.type == "td_open"]
    assert [words(cell.children) for cell in cells][::2] == [collapsed(text), "end"]
    shown = words(cells[1].children)
    assert shown == collapsed(value) or not collapsed(value)


@settings(max_examples=200)
@given(TEXTS)
def test_the_text_of_an_image_stays_in_its_brackets(text):
    (inline,) = (token for token in PARSER.parse(f"![{markdown.label(text)}](plots/a.png)") if token.type == "inline")
    (image,) = inline.children
    assert (image.type, image.attrs["src"]) == ("image", "plots/a.png")
    assert words(image.children or []) == collapsed(text)


@settings(max_examples=200)
@given(TEXTS)
@example("```\n<b>\n````")
def test_a_block_holds_its_lines(text):
    (token,) = PARSER.parse(markdown.block(text, "yaml"))
    assert (token.type, token.info, token.content) == ("fence", "yaml", f"{text}\n")
