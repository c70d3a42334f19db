"""Datasets by name. No hub is reached: a folder of files is what `load_dataset` takes in the same way."""

import pytest

from dro_trl.data.formats.hub import read_hub
from tests.helpers.preparing import write_lines


def test_rows_are_numbered_from_one(tmp_path):
    write_lines(tmp_path / "train.jsonl", [{"question": "a"}, {"question": "b"}])
    assert list(read_hub(str(tmp_path), None, "train")) == [(1, {"question": "a"}), (2, {"question": "b"})]


def test_an_unknown_dataset_is_named():
    with pytest.raises(FileNotFoundError, match="nobody/nothing: no such file or folder, and no such dataset"):
        list(read_hub("nobody/nothing", None, "train"))
