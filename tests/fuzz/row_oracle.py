"""Which rows of a dataset are good, told in the plainest way, and held against what is loaded."""

import json

from dro_trl.data.load import read_rag_dataset
from tests.fuzz.oracles import cells_of, decoded, json_lines, json_of, same, text_of
from tests.fuzz.outcomes import REFUSED, RIGHT, attempt

LISTS = ("answers", "candidates", "gold_ids")


def is_text(value, blank=False):
    return isinstance(value, str) and (blank or bool(value.strip()))


def is_score(value):
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**1024


def is_passage(value):
    if not isinstance(value, dict) or not {"id", "title", "text", "score"} <= value.keys():
        return False
    return (
        is_text(value["id"]) and is_text(value["title"], True) and is_text(value["text"]) and is_score(value["score"])
    )


def is_good(row):
    if not isinstance(row, dict) or not is_text(row.get("question")):
        return False
    answers, passages, gold = (row.get(name) for name in ("answers", "candidates", "gold_ids"))
    if not all(isinstance(value, list) for value in (answers, passages)) or not answers or not passages:
        return False
    if not all(map(is_text, answers)) or not all(map(is_passage, passages)):
        return False
    if gold is not None and not (isinstance(gold, list) and all(map(is_text, gold)) and len({*gold}) == len(gold)):
        return False
    return len({passage["id"] for passage in passages}) == len(passages)


def expected_of(suffix, content):
    """Return the rows with their numbers, errors in place of those that are none."""
    if suffix == ".csv":
        header, *table = cells_of(content, ",") or [[]]
        if len({*header}) < len(header):
            raise ValueError("a column twice")
        return [(number, row_of(header, cells)) for number, cells in enumerate(table, start=1)]
    if suffix == ".json" and str(decoded(text_of(content))).lstrip()[:1] == "[":
        return list(enumerate(json_of(text_of(content).decode()), start=1))
    return json_lines(content)


def row_of(header, cells):
    if len(cells) != len(header):
        return ValueError("another number of cells")
    row = dict(zip(header, cells, strict=True))
    try:
        lists = {
            name: json_of(row[name]) for name in ("answers", "candidates", "gold_ids") if row.get(name, "").strip()
        }
    except ValueError as error:
        return error
    return {**row, **{name: None for name in ("answers", "candidates", "gold_ids") if name in row}, **lists}


def compared(path, expected, names=None):
    """Hold what is loaded from a file against its rows, each with its number: all columns, or those that are named."""
    good = [row for _, row in expected if is_good(row)]
    bad = [number for number, row in expected if not is_good(row)]
    loaded, _ = attempt(lambda: read_rag_dataset(path, on_bad_row="skip"), path)
    whole, message = attempt(lambda: read_rag_dataset(path), path)
    assert (loaded is None) == (not good)
    assert (whole is None) == (bool(bad) or not good), message
    if loaded is not None:
        assert [fault.row for fault in loaded.skipped] == bad
        found = loaded.dataset.to_list()
        compare([{n: v for n, v in row.items() if not names or n in names} for row in found], good, loaded.json_texts)
    if bad and good:
        assert f"row {bad[0]}: " in message
    return RIGHT if whole is not None else REFUSED


def compare(found, good, json_texts):
    assert len(found) == len(good)
    for one, row in zip(found, good, strict=True):
        for name in {*json_texts} & one.keys():
            if one[name] is not None:
                one[name] = json.loads(one[name])
        for passages in (one["candidates"], row["candidates"]):
            passages[:] = [
                {"id": p["id"], "title": p["title"], "text": p["text"], "score": float(p["score"])} for p in passages
            ]
        assert same(one, row)
