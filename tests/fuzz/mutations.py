"""Valid content with something wrong in it: in its values, in the text that holds them, in the bytes of that."""

import copy
import gzip
import json
import math

from hypothesis import strategies as st

DEEP = "@deep@"
"""Stands for lists in lists, until the JSON text is made."""
ODD = (
    *(None, True, False, 0, 1, -1, 7, 2**53 + 1, 2**63, 2**64, -(2**70), 10**400, 0.5, -0.0, 1e300, 1e-320),
    *(math.nan, math.inf, -math.inf, "", " ", "\t", "\n", "a\nb", "a\rb", "a\u2028b\x85c\x0bd\x1ce", "\0", "a\0b"),
    *("\u00a0", "\u3000", "a\u00a0b", "\ufeff", "\ufeffa", "\u0661\u0662", "1_0", "1e5", "0x1", "NaN", "-inf", "null"),
    *("\ud800", "a\udfffb", "\ud83d\ude00", "\\ud800", '"', '"a', 'a"b', '""', "a,b", "a\tb", "a b", "e\u0301", "[]"),
    *('["a"]', '{"id": "1"}', "[1", "{", "#", "- a", "x" * 200_000, [], [None], [[]], ["a", 1], ["a", "a"], ["", "a"]),
    *([["a"]], {}, {"id": "1"}, {"a": {"b": [1, "c"]}}, [{}], [{"id": "1"}, 3], DEEP, [DEEP], {"a": DEEP}),
)
DEPTHS = (40, 300, 900, 3_000, 100_000)


def paths(value, path=()):
    """Yield the path of every value within a value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from paths(inner, (*path, key))


def _change(draw, value, names):
    *path, last = draw(st.sampled_from(list(paths(value))))
    holder = value
    for key in path:
        holder = holder[key]
    found = holder[last]
    how = draw(st.sampled_from(["put", "put", "put", "drop", "rename", "add", "again", "wrap", "text", "number"]))
    if how == "drop":
        del holder[last]
    elif how == "rename" and isinstance(holder, dict):
        holder[draw(st.sampled_from(names))] = holder.pop(last)
    elif how == "add" and isinstance(holder, dict):
        holder[draw(st.sampled_from(names))] = copy.deepcopy(draw(st.sampled_from(ODD)))
    elif how == "again" and isinstance(holder, list):
        holder.insert(draw(st.integers(0, len(holder))), copy.deepcopy(found))
    elif how == "wrap":
        holder[last] = draw(st.sampled_from([[found], {"text": found}, [found, found], [[found]]]))
    elif how == "text":
        holder[last] = found if isinstance(found, str) else json.dumps(found)
    elif how == "number":
        holder[last] = draw(st.sampled_from([17, 3.0, -2, len(str(found))]))
    else:
        holder[last] = copy.deepcopy(draw(st.sampled_from(ODD)))


@st.composite
def mutated(draw, values, names=("id", "note", "", "a b", "\ud800", "Question", "__class__"), most=2):
    """Draw a value and change up to `most` values within it; what is added is called by one of `names`."""
    value = copy.deepcopy(draw(values))
    for _ in range(draw(st.integers(0, most))):
        if value:
            _change(draw, value, names)
    return value


@st.composite
def json_text(draw, value, indent=None):
    """Draw a JSON text of a value: with or without escapes, with a key twice, with deep nesting."""
    escaped = draw(st.booleans())
    text = json.dumps(value, indent=indent, ensure_ascii=escaped)
    if f'"{DEEP}"' in text:
        depth = draw(st.sampled_from(DEPTHS))
        text = text.replace(f'"{DEEP}"', "[" * depth + "]" * depth)
    if "{" in text and draw(st.integers(0, 19)) == 0:
        key = draw(st.sampled_from(['"id": "0", ', '"text": "twice", ', '"question": 3, ', '"x": 1, "x": 2, ']))
        text = text.replace("{", "{" + key, 1)
    return text


@st.composite
def file_of(draw, text):
    """Draw the bytes of a text: as they are, or with other line ends, a wrong byte, compressed, cut …"""
    content = text.encode("utf-8", "surrogatepass")
    for how in draw(st.lists(st.sampled_from(sorted(WHOLE)), max_size=2)):
        content = WHOLE[how](content, draw(st.floats(0, 1)))
    return content


def _put(content, share, new, replaced=1):
    at = int(share * len(content))
    return content[:at] + new + content[at + replaced :]


def _at_line(content, share, new):
    lines = content.splitlines(keepends=True)
    at = int(share * len(lines))
    return b"".join([*lines[:at], new, *lines[at:]])


WHOLE = {
    "mark": lambda content, _: b"\xef\xbb\xbf" + content,
    "two marks": lambda content, _: b"\xef\xbb\xbf\xef\xbb\xbf" + content,
    "UTF-16": lambda content, _: content.decode("utf-8", "replace").encode("utf-16"),
    "CR LF": lambda content, _: content.replace(b"\n", b"\r\n"),
    "CR": lambda content, _: content.replace(b"\n", b"\r"),
    "cut": lambda content, share: content[: int(share * len(content))],
    "no last end": lambda content, _: content.rstrip(b"\n"),
    "empty": lambda content, _: b"",
    "empty line": lambda content, share: _at_line(content, share, b"\n"),
    "line of spaces": lambda content, share: _at_line(content, share, b"  \n"),
    "line of a tab": lambda content, share: _at_line(content, share, b"\t\n"),
    "line of a word": lambda content, share: _at_line(content, share, b"word\n"),
    "line twice": lambda content, share: _at_line(
        content, share, (content.splitlines(keepends=True) or [b""])[int(share * 0.99 * content.count(b"\n"))]
    ),
    "no UTF-8": lambda content, share: _put(content, share, b"\xff"),
    "half a character": lambda content, share: _put(content, share, b"\xc3", 0),
    "NUL": lambda content, share: _put(content, share, b"\0"),
    "quote": lambda content, share: _put(content, share, b'"', 0),
    "line end": lambda content, share: _put(content, share, b"\n", 0),
    "carriage return": lambda content, share: _put(content, share, b"\r", 0),
    "tab": lambda content, share: _put(content, share, b"\t", 0),
    "brace": lambda content, share: _put(content, share, b"}", 0),
    "byte lost": lambda content, share: _put(content, share, b""),
    "gzip": lambda content, _: gzip.compress(content, 1, mtime=0),
    "gzip in two": lambda content, share: b"".join(
        gzip.compress(part, 1, mtime=0)
        for part in (content[: int(share * len(content))], content[int(share * len(content)) :])
    ),
    "gzip cut": lambda content, share: (packed := gzip.compress(content, 1, mtime=0))[: int(share * len(packed))],
    "gzip damaged": lambda content, share: _put(gzip.compress(content, 1, mtime=0), share, b"\x55"),
    "gzip and more": lambda content, _: gzip.compress(content, 1, mtime=0) + b"more",
    "gzip and zeros": lambda content, _: gzip.compress(content, 1, mtime=0) + bytes(512),
}
"""What is done to the bytes of a file; a share says where."""
