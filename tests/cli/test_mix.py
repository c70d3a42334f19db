"""`dro-trl mix`: the rows of several files, in a seeded order."""

import json

import pytest
from typer.testing import CliRunner

from dro_trl.cli.app import app
from dro_trl.files.writing import write_jsonl


def mix(folder, *options):
    inputs = ["--input", folder / "a.jsonl", "--input", folder / "b.jsonl"]
    return CliRunner().invoke(app, ["mix", *map(str, inputs), "--output", str(folder / "out.jsonl"), *options])


@pytest.fixture
def files(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", [{"id": f"a{n}", "question": "é"} for n in range(20)])
    write_jsonl(tmp_path / "b.jsonl", [{"id": f"b{n}", "gold_ids": ["1"]} for n in range(10)])
    return tmp_path


def test_all_rows_in_an_order_that_the_seed_decides(files):
    orders = []
    for seed in ("0", "0", "1"):
        result = mix(files, "--seed", seed)
        assert result.exit_code == 0, result.output
        assert "30 rows of 2 files" in result.output
        orders.append((files / "out.jsonl").read_text().splitlines())
    assert orders[0] == orders[1] != orders[2]
    given = [line for name in ("a", "b") for line in (files / f"{name}.jsonl").read_text().splitlines()]
    assert sorted(orders[0]) == sorted(orders[2]) == sorted(given)
    first = [json.loads(line)["id"][0] for line in orders[0][:10]]
    assert {"a", "b"} == set(first)


@pytest.mark.parametrize(("line", "message"), [("{", "malformed JSON"), ("[1]", "no JSON object")])
def test_a_row_that_is_none_is_named(files, line, message):
    with (files / "b.jsonl").open("a") as file:
        file.write(line + "\n")
    result = mix(files)
    assert result.exit_code == 2
    assert f"b.jsonl, row 11: {message}" in result.stderr
    assert not (files / "out.jsonl").exists()
