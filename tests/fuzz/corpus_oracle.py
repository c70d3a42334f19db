"""What the passages of a corpus are, told in the plainest way."""

import re

from tests.fuzz.oracles import cells_of, decoded, json_lines, json_of, lines_of, text_of


def rows_of(content, form):
    """Return the objects of a corpus, in the form that its format has."""
    first = next((line for _, line in lines_of(content) if isinstance(line, ValueError) or line.strip()), "")
    if isinstance(first, ValueError):
        raise first
    if form.startswith("tsv"):
        names = first.split("\t")
        named = {"id", "text"} <= {*names}
        rows = cells_of(content, "\t", quoted=named and form == "tsv")
        names = names if named else ["id", "text"]
        if any(len(row) != len(names) for row in rows):
            raise ValueError("columns")
        if named and form == "tsv" and any("\t" in cell and "\n" in "".join(row) for row in rows for cell in row):
            raise ValueError("a quote that takes in rows")
        return [{"title": "", **dict(zip(names, row, strict=True))} for row in rows[named:]]
    if first.strip()[:1] == "[" or first.strip() == "{":
        value = json_of("\n".join(str(line) for _, line in lines_of(content)))
        decoded_whole = decoded(text_of(content))
        if isinstance(decoded_whole, ValueError):
            raise decoded_whole
        return value if isinstance(value, list) else [value]
    return [row for _, row in json_lines(content)]


def passages_of(row, form):
    """Return the passages of an object: id, title and text."""
    if not isinstance(row, dict):
        raise ValueError(row)
    if form == "kilt":
        page, title, texts = row.get("wikipedia_id"), row.get("wikipedia_title"), row.get("text")
        if not isinstance(title, str) or not isinstance(texts, list) or not all(isinstance(t, str) for t in texts):
            raise ValueError(row)
        left_out = [(0, title.strip())]
        return [
            (f"{identifier(page)}:{number}", title, text.strip())
            for number, text in enumerate(texts)
            if text.strip() and not text.startswith("Section::::") and (number, text.strip()) not in left_out
        ] or [] * len(identifier(page))
    if form == "beir":
        name, title, text = row.get("_id"), row.get("title"), row.get("text")
        title, text = ("" if value is None else value for value in (title, text))
        if title == "" == text or (isinstance(title, str) and isinstance(text, str) and not (title + text).strip()):
            return []
        if isinstance(text, str) and isinstance(title, str) and not text.strip():
            title, text = "", title
    elif form == "contents":
        name, contents, title, text = (row.get(field) for field in ("id", "contents", "title", "text"))
        if not isinstance(contents, str) or (title is not None and not isinstance(title, str)):
            raise ValueError(row)
        match = re.match(r'"(.*)"\n', contents)
        title, is_titled = title or "", title is not None
        if text is not None:
            pass
        elif is_titled:
            text = contents.removeprefix(title + "\n")
        elif match:
            title, text = match[1].replace('""', '"'), contents[match.end() :]
        else:
            text = contents
    else:
        name, title, text = row.get("id"), row.get("title"), row.get("text")
    if not isinstance(title, str) or not isinstance(text, str) or not text.strip():
        raise ValueError(row)
    return [(identifier(name), title, text)]


def identifier(value):
    if isinstance(value, bool) or not isinstance(value, int | str) or not str(value).strip():
        raise ValueError(value)
    return str(value)


def expected_of(contents, form):
    """Return the passages of files of a format, None where they are not valid."""
    try:
        rows = [row for content in contents for row in rows_of(content, form)]
        found = [passage for row in rows for passage in passages_of(row, form)]
    except ValueError:
        return None
    return found if found and len({name for name, _, _ in found}) == len(found) else None
