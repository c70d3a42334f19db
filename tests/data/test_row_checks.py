"""Checks of whole columns: what they let pass, `check_row` lets pass too, whatever types a column is stored in."""

import sys

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from dro_trl.data import row_checks
from dro_trl.data.load import read_rag_dataset
from dro_trl.data.row_checks import doubtful_rows, find_faults
from tests.data.test_schema import FAULTS, ROW, changed


def test_white_space_is_that_of_python():
    letters = [chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000]
    spaces = pc.utf8_is_space(pa.array(letters)).to_numpy(zero_copy_only=False)
    assert [letters[i] for i in np.flatnonzero(spaces)] == [letter for letter in letters if letter.isspace()]


def test_every_fault_that_arrow_can_hold_is_found():
    held = 0
    for path, value, message in FAULTS:
        faulty = changed(path, value)
        try:
            table = pa.Table.from_pylist([ROW, faulty, ROW])
        except (pa.ArrowException, UnicodeError, OverflowError):
            continue  # Of another type than its neighbours, and so no row of one table.
        if value is not True:  # Arrow makes it 1.0 among numbers.
            [fault] = find_faults(Dataset(table))
            assert fault.row == 2
            assert message.split("' is ")[0] in fault.reason
            held += 1
    assert held >= 15


def test_clean_rows_are_not_doubted():
    rows = [ROW, {**ROW, "gold_ids": None}, {**ROW, "gold_ids": ["b", "a"]}]
    table = pa.Table.from_pylist(rows)
    assert doubtful_rows(table, require_candidates=True).tolist() == [False] * 3
    assert doubtful_rows(table.slice(1), require_candidates=True).tolist() == [False] * 2
    bare = table.drop_columns(["candidates"])
    assert doubtful_rows(bare, require_candidates=False).tolist() == [False] * 3
    assert doubtful_rows(bare, require_candidates=True).tolist() == [True] * 3


def test_equal_ids_count_in_one_row_alone():
    table = pa.Table.from_pylist([{**ROW, "gold_ids": ids} for ids in (["a", "b"], None, ["b", "a"], [], ["a", "a"])])
    assert doubtful_rows(table, require_candidates=True).tolist() == [False, False, False, False, True]
    assert doubtful_rows(table.slice(2, 2), require_candidates=True).tolist() == [False, False]


def test_only_doubtful_rows_are_checked_one_by_one(monkeypatch):
    seen = []
    check = row_checks.check_row
    monkeypatch.setattr(row_checks, "check_row", lambda content, **o: seen.append(content) or check(content, **o))
    rows = [ROW] * 2_500
    rows[1_700] = changed(("candidates", 1, "id"), "7")
    [fault] = find_faults(Dataset.from_list(rows).select(range(100, 2_500)))
    assert fault.row == 1_601
    assert seen == [rows[1_700]]


@pytest.mark.parametrize("kind", [pa.int32(), pa.float32(), pa.uint64(), pa.bool_(), pa.string()])
def test_scores_of_other_types(kind):
    table = pa.Table.from_pylist([changed(("candidates",), [{"id": "a", "title": "", "text": "t", "score": 1}])])
    candidates = table["candidates"].combine_chunks()
    fields = {field.name: candidates.values.field(field.name) for field in candidates.type.value_type}
    fields["score"] = fields["score"].cast(kind)
    structs = pa.StructArray.from_arrays(list(fields.values()), names=list(fields))
    table = table.set_column(2, "candidates", pa.ListArray.from_arrays(candidates.offsets, structs))
    faults = find_faults(Dataset(table))
    assert bool(faults) == (kind in (pa.bool_(), pa.string()))


def test_other_ways_to_store_text_and_lists(tmp_path):
    text = pa.large_string()
    rows = [{**ROW, "question": "a"}, {**ROW, "question": " "}]
    table = pa.Table.from_pylist([{name: one[name] for name in ("question", "answers")} for one in rows])
    for kinds in ([text, pa.large_list(text)], [pa.dictionary(pa.int32(), pa.string()), pa.list_(pa.string())]):
        names = ("question", "answers")
        pq.write_table(
            pa.table([table[name].cast(kind) for name, kind in zip(names, kinds, strict=True)], names=names),
            tmp_path / "a.parquet",
        )
        report = read_rag_dataset(tmp_path / "a.parquet", on_bad_row="skip", require_candidates=False)
        assert [fault.row for fault in report.skipped] == [2]
        assert report.dataset.to_list() == [{"question": "a", "answers": ROW["answers"]}]
