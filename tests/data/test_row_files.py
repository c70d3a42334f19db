"""Rows in files: from a size on, without a difference in what is read, and gone when the process is."""

import os
import subprocess
import sys

import pyarrow as pa
import pytest

from dro_trl.data.row_files import RowFile, dataset_of

TABLES = [pa.table({"number": range(start, start + 100)}) for start in range(0, 1_000, 100)]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    from dro_trl.data import row_files

    monkeypatch.setenv("DRO_TRL_CACHE", str(tmp_path))
    row_files._folder_of.cache_clear()
    yield tmp_path
    row_files._folder_of.cache_clear()


@pytest.mark.parametrize(("most", "in_file"), [(0, True), (3_000, True), (8_000, False)])
def test_the_same_rows_from_memory_and_from_a_file(cache, most, in_file):
    file = RowFile(TABLES[0].schema, most)
    for table in TABLES:
        file.write(table)
    dataset = file.dataset()
    assert dataset["number"][:] == list(range(1_000))
    assert bool(dataset.cache_files) == in_file
    assert sum(table.num_rows for table in file.tables()) == 1_000
    assert bool(list(cache.rglob("*.arrow"))) == in_file
    assert file.held_bytes == (0 if in_file else 8_000)


def test_no_rows():
    assert dataset_of(iter([]), TABLES[0].schema).column_names == ["number"]


def test_without_a_folder_for_the_cache(cache, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DRO_TRL_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    file = RowFile(TABLES[0].schema, 0)
    file.write(TABLES[0])
    assert len(file.dataset()) == 100
    assert len(list(tmp_path.glob("dro_trl-rows-*/*/*.arrow"))) == 1


PROGRAM = """
import resource, sys, time
import pyarrow as pa
from dro_trl.data.row_files import RowFile
table = pa.table({"number": range(10_000)})
file = RowFile(table.schema, 0)
file.write(table)
assert len(file.dataset()) == 10_000
print("written", flush=True)
if sys.argv[1] == "wait":
    time.sleep(60)
if sys.argv[1] == "full":
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    try:
        for _ in range(100):
            file = RowFile(table.schema, 0)
            [file.write(table) for _ in range(10)]
    except OSError as error:
        print(error)
"""


def test_files_go_with_their_process_and_those_of_a_killed_one_with_the_next(tmp_path):
    def start(what):
        command = [sys.executable, "-c", PROGRAM, what]
        environment = {**os.environ, "DRO_TRL_CACHE": str(tmp_path)}
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)

    killed, alive = start("wait"), start("wait")
    assert [process.stdout.readline() for process in (killed, alive)] == ["written\n"] * 2
    rows = tmp_path / "rows"
    assert len(list(rows.glob("*/*.arrow"))) == 2
    killed.kill()
    killed.communicate()
    said, _ = start("full").communicate()
    assert f"set DRO_TRL_CACHE to a folder that has it: '{rows}" in said
    assert len(list(rows.iterdir())) == 1
    assert alive.poll() is None
    alive.kill()
    alive.communicate()
