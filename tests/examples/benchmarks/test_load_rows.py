"""The rows of the loading benchmark are ones that both ways of loading take whole."""

import load_rows
import pytest

from dro_trl.data import text_row_reader


@pytest.mark.parametrize("form", load_rows.FORMS)
def test_python_looks_at_the_first_rows_alone(tmp_path, form, monkeypatch):
    looked_at = []
    monkeypatch.setattr(text_row_reader, "check_row", lambda row, **options: looked_at.append(row["id"]))
    path = tmp_path / f"{form}.jsonl"
    load_rows.write_rows(path, form, num_rows=2_500, num_candidates=3, num_words=4)
    assert load_rows.load_checked(path, "") == load_rows.load_plain(path, str(tmp_path / "cache")) == 2_500
    assert looked_at == [f"q{number}" for number in range(text_row_reader.ROWS_PER_BATCH)]
