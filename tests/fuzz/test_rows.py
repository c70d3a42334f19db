"""Rows of damaged datasets are as the file says, or refused with their number."""

import csv
import io
import json

from hypothesis import strategies as st

from tests.fuzz.mutations import file_of, json_text, mutated
from tests.fuzz.row_oracle import compared, expected_of

WORDS = st.sampled_from(["Oslo", "São Paulo", "1984", 'the "town"', "a, b", "x", "東京", "it's"])
SCORES = st.sampled_from([1.5, 2, -0.25])
NAMES = ("question", "answers", "candidates", "gold_ids", "note", "qestion", "", "a b", "id", "\ud800")


@st.composite
def rows(draw):
    found = []
    for number in range(draw(st.integers(1, 4))):
        passages = [
            {
                "id": f"p{one}",
                "title": draw(WORDS),
                "text": draw(WORDS),
                "score": draw(st.sampled_from([1.5, 2, -0.25])),
            }
            for one in range(draw(st.integers(1, 3)))
        ]
        row = {"question": draw(WORDS), "answers": [draw(WORDS)], "candidates": passages, "note": number}
        found.append({**row, **({"gold_ids": ["p0"]} if draw(st.booleans()) else {})})
    return found


@st.composite
def files(draw):
    suffix = draw(st.sampled_from([".jsonl", ".jsonl", ".json", ".json", ".csv"]))
    value = draw(mutated(rows(), NAMES))
    if suffix == ".csv":
        return suffix, draw(file_of(draw(csv_text(value))))
    if suffix == ".jsonl" or draw(st.booleans()):
        return suffix, draw(file_of("".join(draw(json_text(row)) + "\n" for row in value)))
    return suffix, draw(file_of(draw(json_text(value, indent=draw(st.sampled_from([None, 1]))))))


@st.composite
def csv_text(draw, value):
    value = [row for row in value if isinstance(row, dict)]
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator="\n")
    header = list(dict.fromkeys(name for row in value for name in row))
    table = [[cell_of(row.get(name)) for name in header] for row in value]
    writer.writerow(header)
    for cells in table:
        how = draw(st.sampled_from(["whole"] * 9 + ["short", "long"]))
        writer.writerow({"whole": cells, "short": cells[:-1], "long": [*cells, "more"]}[how])
    return file.getvalue()


def cell_of(value):
    return "" if value is None else value if isinstance(value, str) else json.dumps(value)


def check(path, suffix, content):
    path = path.with_suffix(suffix)
    path.write_bytes(content)
    try:
        expected = expected_of(suffix, content)
    except ValueError:
        expected = []
    return compared(path, expected)


def test_rows(tmp_path, explore):
    explore(files(), lambda file: check(tmp_path / "rows", *file), 600)
