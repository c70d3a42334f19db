"""`dro-trl evaluate` on a tiny trained pair."""

import csv
import json
import signal
import subprocess
import sys
import time

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from dro_trl import RAGPipeline
from dro_trl.cli.app import app
from dro_trl.cli.evaluate import write_table
from dro_trl.evaluation.evaluator import evaluate_pair, predict
from dro_trl.evaluation.systems import SYSTEMS as FOUND
from dro_trl.evaluation.systems import Task
from dro_trl.files.writing import write_jsonl
from dro_trl.metrics import exact_match, token_f1
from dro_trl.policies.randomness import shuffled
from tests.helpers.launching import launch
from tests.helpers.tiny_models import tiny_questions

SYSTEMS = ["start, retriever order", "start", "trained, retriever order", "trained"]


def test_four_systems_are_compared_on_the_same_questions(trained_pair, tmp_path):
    rows = [json.loads(line) for line in (trained_pair.parent / "rows.jsonl").read_text().splitlines()][:4]
    command = [
        sys.executable,
        "-m",
        "dro_trl",
        "evaluate",
        "--model_name_or_path",
        str(trained_pair),
        "--max_new_tokens",
        "3",
    ]
    command += [
        "--dataset_name",
        str(trained_pair.parent / "rows.jsonl"),
        "--max_eval_samples",
        "4",
        "--seed",
        "5",
        "--per_device_eval_batch_size",
        "3",
    ]
    done = subprocess.run([*command, "--output_dir", str(tmp_path)], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    assert f"Results: {tmp_path / 'results.json'}\nPlot: {tmp_path / 'comparison.png'}" in done.stdout
    assert (tmp_path / "comparison.png").stat().st_size > 1000

    results = json.loads((tmp_path / "results.json").read_text())
    assert list(results["systems"]) == SYSTEMS == list(results["predictions"])
    assert (results["model"], results["dataset"]) == (str(trained_pair), str(trained_pair.parent / "rows.jsonl"))
    assert (results["shuffle_candidates"], results["systems_that_read_answers"]) == (None, [])
    assert results["seconds"] > 0
    pipelines = {"start": RAGPipeline.from_start(trained_pair), "trained": RAGPipeline.from_pretrained(trained_pair)}
    for name, system in results["systems"].items():
        order = "retriever" if "retriever" in name else "selector"
        outputs = pipelines[name.partition(",")[0]].predict(rows, order=order, max_new_tokens=3)
        hits = [row["gold_ids"][0] in [p["id"] for p in o.passages] for row, o in zip(rows, outputs, strict=True)]
        assert system["n"] == 4
        assert system["recall@2"] == pytest.approx(sum(hits) / 4)
        for measure, function in (("em", exact_match), ("f1", token_f1)):
            scores = [function(o.answer, row["answers"]) for row, o in zip(rows, outputs, strict=True)]
            assert system[measure] == pytest.approx(sum(scores) / 4)
    pairs = {(comparison["system"], comparison["baseline"]) for comparison in results["comparisons"]}
    assert pairs == {("trained", baseline) for baseline in SYSTEMS[:3]}
    assert all(comparison["seed"] == 5 and len(comparison["ci95"]) == 2 for comparison in results["comparisons"])


def test_without_the_start_two_systems_are_left(trained_pair, tmp_path):
    data = str(trained_pair.parent / "rows.jsonl")
    options = ["--no_start", "--max_new_tokens", "1", "--output_dir", str(tmp_path)]
    options += ["--num_selected", "3", "--cutoffs", "1", "--cutoffs", "3"]
    options += ["--metrics", "rouge_l", "--metrics", "map", "--window_size", "4", "--window_stride", "1"]
    result = CliRunner().invoke(
        app, ["evaluate", "--model_name_or_path", str(trained_pair), "--dataset_name", data, *options]
    )
    assert result.exit_code == 0, result.output
    results = json.loads((tmp_path / "results.json").read_text())
    assert list(results["systems"]) == SYSTEMS[2:]
    assert (results["window_size"], results["window_stride"]) == (4, 1)
    assert {"recall@1", "recall@3", "map", "rouge_l"} <= results["systems"]["trained"].keys()
    assert "acc" not in results["systems"]["trained"]
    assert "ROUGE-L" in result.stdout


def test_predictions_can_be_a_table(tmp_path):
    """Read again as others would; one of an earlier evaluation goes."""
    made = {
        "question": "Who, me?",
        "answers": ['Ada "A"', "é"],
        "gold_ids": None,
        "ranking": ["b,1", "a"],
        "answer": "the é",
    }
    predictions = {"start": [{**made, "gold_ids": ["a"], "answer": ""}], "trained": [made]}
    for format in ("csv", "parquet"):
        write_table(tmp_path, ["q1"], predictions, format)
        assert [path.name for path in tmp_path.iterdir()] == [f"predictions.{format}"]
        path = tmp_path / f"predictions.{format}"
        rows = pq.read_table(path).to_pylist() if format == "parquet" else list(csv.DictReader(path.open()))
        if format == "csv":
            lists = ("answers", "gold_ids", "ranking", "em", "f1")
            rows = [{k: (json.loads(v) if v else None) if k in lists else v for k, v in row.items()} for row in rows]
        judged = {"system": "trained", "id": "q1", **made, "em": 1.0, "f1": 1.0}
        assert rows == [{**judged, **predictions["start"][0], "system": "start", "em": 0.0, "f1": 0.0}, judged]
    write_table(tmp_path, ["q1"], predictions, "json")
    assert list(tmp_path.iterdir()) == []


def test_groups_of_a_column_are_evaluated_by_themselves(trained_pair, tmp_path):
    """Of five questions, two have one hop; each group's figures are those of a file that holds it alone."""
    rows = [json.loads(line) for line in (trained_pair.parent / "rows.jsonl").read_text().splitlines()]
    rows = [{**row, "hops": hops} for row, hops in zip(rows, [2, 1, 2, 1, 2], strict=True)]
    given = [
        "evaluate",
        "--model_name_or_path",
        str(trained_pair),
        "--no_start",
        "--max_new_tokens",
        "2",
        "--dtype",
        "float32",
    ]
    found = {}
    for name, hops in {"all": [1, 2], "one": [1], "two": [2]}.items():
        write_jsonl(tmp_path / f"{name}.jsonl", [row for row in rows if row["hops"] in hops])
        options = ["--dataset", str(tmp_path / f"{name}.jsonl"), "--output_dir", str(tmp_path / name)]
        options += ["--by", "hops"] if name == "all" else ["--metric", "all_gold"]
        result = CliRunner().invoke(app, [*given, *options])
        assert result.exit_code == 0, result.output
        assert ("By hops" in result.stdout) == (name == "all")
        found[name] = results_of(tmp_path / name)
    assert (found["all"]["by"], found["one"]["by"], found["one"]["groups"]) == ("hops", None, [])
    for group, name, value in zip(found["all"]["groups"], ("one", "two"), (1, 2), strict=True):
        assert group == {"value": value, **{key: found[name][key] for key in group if key != "value"}}
        assert group["systems"]["trained"]["n"] == 1 + value


def test_further_systems_are_rows_of_the_same_results(trained_pair, tmp_path):
    path = trained_pair.parent / "rows.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    further = ["oracle", "zero-shot ranking", "no retrieval", "likelihood order", "random"]
    options = ["--no_start", "--max_new_tokens", "3", "--output_dir", str(tmp_path), "--shuffle_seed", "3"]
    options += ["--num_selections", "5", "--seed", "7", *(part for name in further for part in ("--systems", name))]
    result = CliRunner().invoke(
        app, ["evaluate", "--model_name_or_path", str(trained_pair), "--dataset_name", str(path), *options]
    )
    assert result.exit_code == 0, result.output
    results = json.loads((tmp_path / "results.json").read_text())
    assert set(results["systems"]) == {*SYSTEMS[2:], *further} == set(results["predictions"])
    pairs = {(comparison["system"], comparison["baseline"]) for comparison in results["comparisons"]}
    assert pairs == {("trained", baseline) for baseline in results["systems"] if baseline != "trained"}
    assert results["systems_that_read_answers"] == ["likelihood order", "oracle"]
    assert (results["shuffle_candidates"], results["num_selections"]) == (3, 5)
    assert "oracle †" in result.stdout
    assert "† reads the answer" in result.stdout
    assert "Selectors saw the candidates in random order (seed 3)." in result.stdout

    start, trained = RAGPipeline.from_start(trained_pair), RAGPipeline.from_pretrained(trained_pair)
    for name, pipeline in {"zero-shot ranking": start, "oracle": trained, "trained": trained}.items():
        task = Task(pipeline, *shuffled(rows, 3), num_selections=5, seed=7)
        expected = predict(trained, task.rows, FOUND[name].choose(task), max_new_tokens=3)
        assert results["predictions"][name] == expected
    without = [row["candidates"][0]["id"] for row in rows]
    assert [p["ranking"][0] for p in results["predictions"]["trained, retriever order"]] == without


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"--model_name_or_path": "nowhere"},
            "--model_name_or_path nowhere: no such folder; give the output_dir of a DROTrainer run",
        ),
        ({"--dataset_name": "nowhere.jsonl"}, "nowhere.jsonl: no such file"),
        ({"--systems": "orcale"}, "unknown system 'orcale'; did you mean 'oracle'?"),
        ({"--window_size": "2"}, "window_size=2 leaves nothing to choose with num_selected=2"),
        ({"--metrics": "bleu"}, "unknown metrics ['bleu']; expected some of success, map, all_gold, acc, rouge_l"),
        (
            {"--by": "question_"},
            "error: questions ({rows}): column 'question_' is missing (did you mean 'question'?); the columns are "
            "answers, candidates, gold_ids, question",
        ),
        ({"--by": "gold_ids"}, "error: questions ({rows}): column 'gold_ids' holds a list; rows are grouped by text,"),
    ],
)
def test_mistakes_end_in_one_line(trained_pair, options, message):
    given = {
        "--model_name_or_path": str(trained_pair),
        "--dataset_name": str(trained_pair.parent / "rows.jsonl"),
        **options,
    }
    result = CliRunner().invoke(app, ["evaluate", "--no_start", *(part for pair in given.items() for part in pair)])
    assert result.exit_code == 2
    assert message.format(rows=given["--dataset_name"]) in result.stderr.splitlines()[-1]


def results_of(folder):
    results = json.loads((folder / "results.json").read_text())
    assert not (folder / "progress").exists()
    assert results.pop("seconds") > 0
    return results


@pytest.fixture(scope="module")
def whole_evaluation(trained_pair, tmp_path_factory):
    """The arguments of an evaluation in many parts, and its results where one process is left alone."""
    folder = tmp_path_factory.mktemp("whole")
    rows = tiny_questions(*[4, 7, 5, 6, 9] * 8)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = [
        "evaluate",
        "--model_name_or_path",
        str(trained_pair),
        "--dataset_name",
        str(folder / "rows.jsonl"),
        "--no_start",
    ]
    given += [
        "--max_new_tokens",
        "2",
        "--per_device_eval_batch_size",
        "1",
        "--systems",
        "oracle",
        "--num_selections",
        "3",
    ]
    assert CliRunner().invoke(app, [*given, "--output_dir", str(folder)]).exit_code == 0
    return given, results_of(folder)


def test_an_evaluation_that_was_killed_goes_on_to_the_same_results(whole_evaluation, tmp_path, caplog):
    given, whole = whole_evaluation
    given = [*given, "--output_dir", str(tmp_path / "killed")]
    progress = tmp_path / "killed" / "progress"
    process = subprocess.Popen([sys.executable, "-m", "dro_trl", *given], stderr=subprocess.DEVNULL)
    while kept_parts(progress) < 25:  # Of 3 systems and 10 parts, selections and answers.
        assert process.poll() is None
        time.sleep(0.002)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed" / "results.json").exists()
    before = kept_parts(progress)
    assert 25 <= before < 60
    result = CliRunner().invoke(app, given)
    assert result.exit_code == 0, result.output
    assert f"going on from {before} parts" in caplog.text
    assert results_of(tmp_path / "killed") == whole


def kept_parts(folder):
    return sum(path.read_bytes().count(b"\n") for path in folder.glob("*.parts.jsonl"))


def test_two_processes_share_the_questions_and_end_with_the_same_results(whole_evaluation, tmp_path):
    given, whole = whole_evaluation
    given = [*given, "--output_dir", str(tmp_path)]
    _, output = launch(
        "cpu_2proc", "tests.helpers.evaluate_program", *given, environment={"SHARES": str(tmp_path / "share")}
    )
    assert results_of(tmp_path) == whole
    first, second = (int((tmp_path / f"share{rank}").read_text()) for rank in (0, 1))
    assert first + second == len(distinct_readings(whole["predictions"])) > 40
    assert min(first, second) >= 0.4 * (first + second)
    assert output.count("Results: ") == 1


def distinct_readings(predictions, pair="trained"):
    """What a pair's generator reads: a question and its passages, once where several systems chose the same."""
    read_by = {name: rows for name, rows in predictions.items() if FOUND[name].generator == pair}
    return {(number, *row["ranking"]) for rows in read_by.values() for number, row in enumerate(rows)}


def test_the_same_passages_are_answered_from_once(trained_pair, monkeypatch):
    rows = tiny_questions(4, 7, 5, 6, 9, 4)
    expected = {
        name: evaluate_pair(trained_pair, rows, {name, "trained"}, batch_size=2, max_new_tokens=4)[1][name]
        for name in FOUND
    }
    read = []
    answer = RAGPipeline.answer

    def counted(self, rows, *args):
        read.extend(rows)
        return answer(self, rows, *args)

    monkeypatch.setattr(RAGPipeline, "answer", counted)
    _, found = evaluate_pair(trained_pair, rows, FOUND, batch_size=2, max_new_tokens=4)
    assert found == expected
    assert len(read) == sum(len(distinct_readings(found, pair)) for pair in ("start", "trained"))
    assert len(read) < len(FOUND) * len(rows)


def test_the_batch_size_does_not_matter(trained_pair):
    """In float32: a batch's sums are in another order, which bfloat16 rounds to other answers of a random model."""
    rows = tiny_questions(4, 7, 5, 6, 9, 4, 8, 5, 12, 4, 6)
    found = [
        evaluate_pair(trained_pair, rows, FOUND, batch_size=size, max_new_tokens=4, dtype="float32")
        for size in (1, 3, 8)
    ]
    assert found[0] == found[1] == found[2]
    assert list(found[0][1]) == list(FOUND)


def test_no_resume_begins_anew(trained_pair, tmp_path):
    data = str(trained_pair.parent / "rows.jsonl")
    given = [
        "evaluate",
        "--model_name_or_path",
        str(trained_pair),
        "--dataset_name",
        data,
        "--no_start",
        "--output_dir",
        str(tmp_path),
    ]
    assert CliRunner().invoke(app, [*given, "--max_new_tokens", "1"]).exit_code == 0
    expected = results_of(tmp_path)
    wrong = tmp_path / "progress" / "trained-selections.0.parts.jsonl"
    wrong.parent.mkdir()
    wrong.write_text(json.dumps([0, [[0, 0]] * 5]) + "\n")
    assert CliRunner().invoke(app, [*given, "--max_new_tokens", "1", "--no_resume"]).exit_code == 0
    assert results_of(tmp_path) == expected


def test_a_table_of_an_earlier_evaluation_goes_and_other_files_stay(tmp_path):
    for name in ("predictions.csv", "predictions.notes.txt", "predictions.xlsx"):
        (tmp_path / name).write_text("mine")
    write_table(tmp_path, [], {"trained": []}, "parquet")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "predictions.notes.txt",
        "predictions.parquet",
        "predictions.xlsx",
    ]
