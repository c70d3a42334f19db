"""Rows that are read when they are asked for are those of the dataset."""

import pytest
from datasets import Dataset

from dro_trl.data.mapped_rows import MappedRows
from tests.helpers.tiny_models import tiny_questions


def test_they_are_a_sequence_of_the_rows(monkeypatch):
    monkeypatch.setattr("dro_trl.data.mapped_rows._ROWS_PER_BATCH", 3)
    expected = tiny_questions(4, 5, 6, 4, 5, 4, 6)
    rows = MappedRows(Dataset.from_list([*expected, expected[0]]).select(range(7)))
    assert len(rows) == 7
    assert list(rows) == expected
    for at in (0, 6, -1, -7, slice(2, 5), slice(5, 99), slice(7, 9), slice(4, 2), slice(None, None, -2), slice(0, -3)):
        assert rows[at] == expected[at], at
    for beyond in (7, -8):
        with pytest.raises(IndexError):
            rows[beyond]


def test_a_digest_is_of_the_rows_alone(monkeypatch):
    rows = tiny_questions(4, 5, 6, 4, 5)
    monkeypatch.setattr("dro_trl.data.mapped_rows._ROWS_PER_BATCH", 2)
    digests = [
        MappedRows(Dataset.from_list([*before, *rows]).select(range(len(before), len(before) + 5))).digest()
        for before in ([], rows[:1], rows[:3])
    ]
    assert len(set(digests)) == 1
    changed = [*rows[:-1], {**rows[-1], "answers": ["another"]}]
    assert MappedRows(Dataset.from_list(changed)).digest() != digests[0]
    assert MappedRows(Dataset.from_list(rows[:4])).digest() != digests[0]
