"""`dro-trl prepare` as it is run: what it writes, prints and refuses."""

import json

import pytest
from typer.testing import CliRunner

from dro_trl.cli.app import app
from dro_trl.data.formats.table import PublicDataset, source_format
from dro_trl.data.load import load_rag_dataset
from dro_trl.files.writing import write_jsonl


def raw(title):
    return {
        "_id": f"q-{title}",
        "question": f"What is {title}?",
        "answer": "A city",
        "supporting_facts": [[title, 0]],
        "context": [[title, [f"{title} is a city."]]],
    }


@pytest.fixture
def files(tmp_path):
    write_jsonl(tmp_path / "corpus.jsonl", [{"id": "7", "title": "Paris", "text": "Paris is a city."}])
    write_jsonl(tmp_path / "raw.jsonl", [raw("Paris"), raw("Atlantis")])
    return tmp_path


def prepare(folder, *options, dataset="hotpotqa"):
    paths = ["--input", folder / "raw.jsonl", "--corpus", folder / "corpus.jsonl", "--output", folder / "out.jsonl"]
    return CliRunner().invoke(app, ["prepare", "--format", dataset, *map(str, paths), *options])


@pytest.mark.parametrize("option", ["--on_bad_row", "--on-bad-row"])
def test_skipped_rows_are_listed_and_counted(files, option):
    result = prepare(files, option, "skip")
    assert result.exit_code == 0, result.output
    assert "row 2: field 'supporting_facts': found the titles ['Atlantis']" in result.stderr
    rows = load_rag_dataset(files / "out.jsonl", require_candidates=False).to_list()
    assert rows == [{"id": "q-Paris", "question": "What is Paris?", "answers": ["A city"], "gold_ids": ["7"]}]
    report = json.loads((files / "out.report.json").read_text())
    assert (report["read"], report["kept"], report["refused"], report["gold_titles_absent"]) == (2, 1, 1, 1)
    assert [fault["row"] for fault in report["refused_rows"]] == [2]
    assert "out.report.json" in result.stdout.replace("\n", "")


def test_a_bad_row_stops_the_command_and_nothing_is_written(files):
    result = prepare(files)
    assert result.exit_code == 2
    assert "row 2: field 'supporting_facts'" in result.stderr
    assert "--on_bad_row skip" in result.stderr
    assert not (files / "out.jsonl").exists()
    assert not (files / "out.report.json").exists()


def test_a_limit_leaves_later_rows_unread(files):
    result = prepare(files, "--max_samples", "1", dataset="2wikimultihopqa")
    assert result.exit_code == 0, result.output
    report = json.loads((files / "out.report.json").read_text())
    assert (report["dataset"], report["read"], report["kept"]) == ("2wikimultihopqa", 1, 1)


def test_an_absent_input_is_named(files):
    (files / "raw.jsonl").unlink()
    result = prepare(files)
    assert result.exit_code == 2
    assert "raw.jsonl: no such file" in result.stderr


def test_rows_without_answers_are_said_to_be_for_retrieval(tmp_path):
    write_jsonl(tmp_path / "queries.jsonl", [{"_id": "q1", "text": "who leads"}])
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t1\n")
    command = ["prepare", "--format", "beir", "--input", tmp_path, "--output", tmp_path / "out.jsonl"]
    result = CliRunner().invoke(app, list(map(str, command)))
    assert result.exit_code == 0, result.output
    assert "1 row without answers: `dro-trl retrieve` takes such rows" in result.stdout
    assert json.loads((tmp_path / "out.jsonl").read_text()) == {
        "id": "q1",
        "question": "who leads",
        "gold_ids": ["d1"],
        "excluded_ids": ["q1"],
    }
    assert json.loads((tmp_path / "out.report.json").read_text())["kept_without_answers"] == 1


def test_gold_titles_need_a_corpus_or_are_left_out(files):
    command = ["prepare", "--format", "hotpotqa", "--input", files / "raw.jsonl", "--output", files / "out.jsonl"]
    result = CliRunner().invoke(app, list(map(str, command)))
    assert result.exit_code == 2
    assert "--corpus" in result.stderr
    result = CliRunner().invoke(app, [*map(str, command), "--no_gold"])
    assert result.exit_code == 0, result.output
    assert "gold_ids" not in (files / "out.jsonl").read_text()


def test_every_dataset_of_the_command_has_a_reader():
    for dataset in PublicDataset:
        assert callable(source_format(dataset).convert)


def test_a_name_that_is_no_file_is_looked_for_on_the_hub(tmp_path):
    command = ["prepare", "--format", "kilt", "--input", "nobody/nothing", "--output", tmp_path / "out.jsonl"]
    result = CliRunner().invoke(app, list(map(str, command)))
    assert result.exit_code == 2
    assert "no such dataset could be had from the hub" in result.stderr
