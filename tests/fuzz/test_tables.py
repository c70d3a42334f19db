"""Damaged Parquet files and saved datasets hold the rows that they were made of, or are refused."""

import shutil

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset
from hypothesis import reject
from hypothesis import strategies as st

from dro_trl.data.load import read_rag_dataset
from dro_trl.data.schema import COLUMNS
from tests.fuzz.mutations import WHOLE, json_text, mutated
from tests.fuzz.odd_columns import GOOD, ODD_COLUMNS
from tests.fuzz.outcomes import REFUSED, RIGHT, attempt
from tests.fuzz.row_oracle import compared

OLD_ARROW = int(pa.__version__.partition(".")[0]) < 22
"""Does not tell how large views of texts are: a file with such a column is refused."""


@st.composite
def tables(draw):
    """Draw the names and columns of a table, of which at most two are odd, lost, renamed or there twice."""
    columns = list(GOOD.items())
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(columns) - 1))
        name, column = columns[at]
        how = draw(st.sampled_from(["odd"] * 6 + ["lost", "renamed", "twice"]))
        if how == "odd":
            columns[at] = name, draw(st.sampled_from(ODD_COLUMNS))
        elif how == "renamed":
            columns[at] = draw(st.sampled_from(["", "Question", "score", "a.b", "__class__"])), column
        else:
            columns[at : at + 1] = [columns[at]] * (0 if how == "lost" else 2)
    rows = draw(st.sampled_from([2, 2, 2, 1, 0]))
    return [name for name, _ in columns], [column[:rows] for _, column in columns]


def rows_of(names, columns):
    """Return the rows, or none where columns share a name, one is not what it says, or of an unknown kind."""
    kinds = [column.type for name, column in zip(names, columns, strict=True) if name in COLUMNS]
    if len({*names}) < len(names) or any("map<" in str(kind) or "list_view" in str(kind) for kind in kinds):
        return []
    if OLD_ARROW and any("string_view" in str(column.type) for column in columns):
        return []
    try:
        values = [column.to_pylist() for column in columns]
    except UnicodeDecodeError:
        return []
    rows = [dict(zip(names, row, strict=True)) for row in zip(*values, strict=True)]
    return [{name: value for name, value in row.items() if name in COLUMNS} for row in rows]


def check(path, expected):
    """Read a source of these rows; where they are None, nothing is known of them but that no error is a stray one."""
    if expected is not None:
        return compared(path, list(enumerate(expected, start=1)), COLUMNS)
    loaded, _ = attempt(lambda: read_rag_dataset(path), path)
    return REFUSED if loaded is None else RIGHT


def check_file(path, table, how, share):
    names, columns = table
    try:
        pq.write_table(pa.Table.from_arrays(columns, names), path)
    except pa.ArrowNotImplementedError:  # pyarrow 21 has no Parquet form of list views.
        reject()
    path.write_bytes(WHOLE[how](path.read_bytes(), share) if how else path.read_bytes())
    return check(path, [] if how else rows_of(names, columns))


def check_folder(folder, name, change):
    shutil.rmtree(folder, ignore_errors=True)
    Dataset(pa.table(GOOD)).save_to_disk(folder)
    path = next(folder.glob(name))
    before = path.read_bytes()
    path.write_bytes(change(before))
    return check(folder, rows_of(list(GOOD), GOOD.values()) if path.read_bytes() == before else None)


@st.composite
def changes(draw):
    name = draw(st.sampled_from(["state.json", "dataset_info.json", "*.arrow"]))
    share = draw(st.floats(0, 1))
    cut = draw(st.booleans())
    if name == "*.arrow" or cut:
        return name, lambda content: content[: round(share * len(content))]
    seen = {"state.json": STATE, "dataset_info.json": INFO}[name]
    text = draw(json_text(draw(mutated(st.just(seen)))))
    return name, lambda _: text.encode("utf-8", "surrogatepass")


STATE = {
    "_data_files": [{"filename": "data-00000-of-00001.arrow"}],
    "_fingerprint": "0123456789abcdef",
    "_format_columns": None,
    "_format_kwargs": {},
    "_format_type": None,
    "_output_all_columns": False,
    "_split": None,
}
INFO = {
    "citation": "",
    "description": "",
    "homepage": "",
    "license": "",
    "features": Dataset(pa.table(GOOD)).features.to_dict(),
}


def test_parquet(tmp_path, explore):
    damage = st.tuples(tables(), st.sampled_from([None] * 9 + ["cut", "empty", "gzip"]), st.floats(0, 0.99))
    explore(damage, lambda found: check_file(tmp_path / "rows.parquet", *found), 300)


def test_saved_datasets(tmp_path, explore):
    explore(changes(), lambda found: check_folder(tmp_path / "saved", *found), 60)
