"""Reading by blocks: faults, types and values are those of a reading row by row, which only what is odd still gets."""

import gzip
import json
import random

import pytest

from dro_trl.data import columns, row_files, text_row_reader
from dro_trl.data.load import read_rag_dataset


def row(number, **changes):
    candidates = [{"id": f"{number}-{at}", "title": "T", "text": f"é text {at}", "score": 2 - at} for at in range(2)]
    good = {"question": f"q {number}?", "answers": ["yes"], "candidates": candidates, "gold_ids": [], "hops": number}
    return {**good, **changes}


def encoded(rows):
    return [json.dumps(one, ensure_ascii=False).encode() for one in rows]


@pytest.fixture
def by_blocks(monkeypatch):
    """Ten rows are read one by one, then blocks of about 20; returns the numbers of the rows that Python looked at."""
    monkeypatch.setattr(text_row_reader, "ROWS_PER_BATCH", 10)
    monkeypatch.setattr(text_row_reader, "BLOCK_BYTES", 4_000)
    monkeypatch.setattr(text_row_reader, "_FEWEST_LINES", 2)
    looked_at = []
    passes = text_row_reader.TextRowReader._passes
    monkeypatch.setattr(
        text_row_reader.TextRowReader,
        "_passes",
        lambda self, number, one: looked_at.append(number) or passes(self, number, one),
    )
    return looked_at


def outcome(path, **options):
    try:
        report = read_rag_dataset(path, on_bad_row="skip", **options)
    except ValueError as error:
        return str(error)
    texts = report.json_texts  # In which 1.0 stands for 1 where a float came between.
    rows = [{k: json.loads(v) if k in texts and v else v for k, v in one.items()} for one in report.dataset.to_list()]
    return rows, report.num_rows, report.skipped, sorted(texts)


def row_by_row(path, monkeypatch, **options):
    with monkeypatch.context() as patch:
        patch.setattr(text_row_reader, "ROWS_PER_BATCH", 10**9)
        return outcome(path, **options)


def test_python_looks_at_no_clean_row_but_the_first(tmp_path, by_blocks):
    rows = [row(number) for number in range(300)]
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join(encoded(rows)))
    report = read_rag_dataset(path)
    assert report.dataset.to_list() == rows
    assert report.num_rows == 300
    assert by_blocks == list(range(1, 11))


PASSAGE = {"id": "1", "title": "", "text": "t", "score": 1.0}
FAULTY = {
    "answers[0]': found empty": {"answers": ["\u3000"]},
    "'answers': found an empty list": {"answers": []},
    "'answers' is null": {"answers": None},
    "answers[1]': found nothing": {"answers": ["a", None]},
    "'question': found empty": {"question": "\x1c "},
    'candidates[1].id\': found "1" a second time': {"candidates": [PASSAGE, PASSAGE]},
    "candidates[0].text' is null": {"candidates": [{**PASSAGE, "text": None}]},
    "candidates[0].score': found NaN": {"candidates": [{**PASSAGE, "score": float("nan")}]},
    "candidates[0].score': found 1000": {"candidates": [{**PASSAGE, "score": 10**400}]},
    'gold_ids[1]\': found "x" a second time': {"gold_ids": ["x", "x"]},
}


@pytest.mark.parametrize("message", FAULTY)
def test_one_faulty_row_is_all_that_python_looks_at(tmp_path, by_blocks, message):
    rows = [row(number) for number in range(100)]
    rows[60] |= FAULTY[message]
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join(encoded(rows)))
    report = read_rag_dataset(path, on_bad_row="skip")
    [fault] = report.skipped
    assert fault.row == 61
    assert message in fault.reason
    assert report.dataset.to_list() == rows[:60] + rows[61:]
    assert set(by_blocks) == {*range(1, 11), 61}


def test_a_row_of_another_type_is_found_among_its_neighbours(tmp_path, by_blocks):
    rows = [row(number) for number in range(100)]
    rows[60] |= {"answers": "yes"}
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join(encoded(rows)))
    report = read_rag_dataset(path, on_bad_row="skip")
    assert [fault.row for fault in report.skipped] == [61]
    assert 'found "yes"; expected a list of texts' in report.skipped[0].reason
    assert len(by_blocks) <= 12


GOOD = encoded([row(7)])[0]
LINES = {
    "nothing": b"",
    "white space": b" \xe3\x80\x80\x1c",
    "null": b"null",
    "a list": b"[1]",
    "no field": b"{}",
    "two on a line": GOOD + b" " + GOOD,
    "null between two": GOOD + b" null " + GOOD,
    "one on two lines": GOOD.replace(b', "hops"', b',\n"hops"'),
    "two and half a one": GOOD + GOOD[:-1] + b"\n}",
    "one in CR": GOOD.replace(b', "hops"', b',\r"hops"'),
    "white space around": b" \t" + GOOD + b" \r",
    "byte order mark": b"\xef\xbb\xbf" + GOOD,
    "not UTF-8": GOOD.replace(b"T", b"\xff"),
    "not UTF-8 in another column": GOOD.replace(b"}]", b'\xff"}]'),
    "half a pair": GOOD.replace(b"T", b"\\ud83d"),
    "a pair": GOOD.replace(b"T", b"\\ud83d\\ude00"),
    "a field twice": GOOD[:-1] + b', "question": ""}',
    "a field twice, the same": GOOD[:-1] + b', "question": "q?"}',
    "a control character": GOOD.replace(b"T", b"\x01"),
    "Inf": GOOD.replace(b"2,", b"Inf,").replace(b"2}", b"Inf}"),
    "NaN": GOOD.replace(b'"score": 2', b'"score": NaN'),
    "beyond a float": GOOD.replace(b'"score": 2', b'"score": 1e400'),
    "cut off": GOOD[:50],
    "nested deeply": b'{"a":' * 3000,
    "a new column": GOOD[:-1] + b', "late": [null, null]}',
    "a new field": GOOD.replace(b'"T"', b'"T", "rank": 1'),
    "a number where there was none": GOOD[:-1] + b', "empty": 3}',
    "a float": GOOD.replace(b'"hops": 7', b'"hops": 0.5'),
    "a whole number no float holds": GOOD.replace(b'"hops": 7', b'"hops": 9007199254740993'),
    "beyond 64 bits": GOOD.replace(b'"hops": 7', b'"hops": 18446744073709551616'),
    "text": GOOD.replace(b'"hops": 7', b'"hops": "2020-01-01"'),
    "no candidates": encoded([row(7, candidates=None)])[0],
}


@pytest.mark.parametrize("name", LINES)
@pytest.mark.parametrize("most_in_memory", [0, 10**6])
def test_an_odd_line_is_read_as_row_by_row(tmp_path, by_blocks, monkeypatch, name, most_in_memory):
    monkeypatch.setattr(columns, "MOST_IN_MEMORY", most_in_memory)
    monkeypatch.setattr(row_files, "MOST_IN_MEMORY", most_in_memory)
    lines = encoded([row(number, empty=None, part=0.5 if number % 2 else 1) for number in range(60)])
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join([*lines[:30], LINES[name], *lines[30:], LINES[name]]))
    for required in (True, False):
        found = outcome(path, require_candidates=required)
        assert found == row_by_row(path, monkeypatch, require_candidates=required)
        assert found[1] >= 60


def test_every_odd_line_in_one_file(tmp_path, by_blocks, monkeypatch):
    rng = random.Random(0)
    lines = encoded([row(number, part=[number]) for number in range(300)])
    for end in (b"\n", b"\r\n", b"\r"):
        mixed = lines + list(LINES.values())
        rng.shuffle(mixed)
        path = tmp_path / "a.jsonl"
        path.write_bytes(b"\xef\xbb\xbf" + end.join(mixed))
        found = outcome(path)
        assert found == row_by_row(path, monkeypatch)
        assert len(found[2]) > 15


def test_types_widen_from_block_to_block(tmp_path, by_blocks, monkeypatch):
    values = [None] * 30 + [2**53 + 1] * 30 + [{"a": 1}] * 30 + [{"b": [0.5]}] * 30
    rows = [
        row(number, value=value, meta=value if isinstance(value, dict) else None)
        for number, value in enumerate(values)
    ]
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join(encoded(rows)))
    report = read_rag_dataset(path)
    assert report.json_texts == ["value"]
    assert [text and json.loads(text) for text in report.dataset["value"]] == values
    assert report.dataset[119]["meta"] == {"a": None, "b": [0.5]}
    assert report.dataset[60]["meta"] == {"a": 1, "b": None}


def test_a_whole_number_is_not_rounded_for_a_float_that_comes_later(tmp_path, by_blocks):
    values = [1] * 30 + [2**53 + 1] * 30 + [0.5] * 30
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join(encoded([row(number, value=value) for number, value in enumerate(values)])))
    report = read_rag_dataset(path)
    assert [json.loads(text) for text in report.dataset["value"]] == values


def test_a_file_that_is_cut_off_is_told_with_the_line(tmp_path, by_blocks):
    path = tmp_path / "a.jsonl"
    whole = gzip.compress(b"\n".join(encoded([row(number, extra=random.random()) for number in range(500)])))
    path.write_bytes(whole[:-500])
    with pytest.raises(ValueError, match=r"a.jsonl: the compressed file is cut off or damaged after line 4\d\d"):
        read_rag_dataset(path)
