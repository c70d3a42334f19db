"""`dro-trl rerank` and the run files of `dro-trl evaluate`, read by the tools that others read them with."""

import json
from pathlib import Path

import ir_measures
import pytest
import pytrec_eval
from typer.testing import CliRunner

from dro_trl import Selector, read_run
from dro_trl.cli.app import app


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def inputs(trained_pair, tmp_path):
    """Questions, the passages of all of them, and a run that ranks each one's, the last first."""
    rows = [json.loads(line) for line in (trained_pair.parent / "rows.jsonl").read_text().splitlines()]
    questions = [{"id": f"q{i}", "question": row["question"]} for i, row in enumerate(rows)]
    passages = [{name: p[name] for name in ("id", "title", "text")} for row in rows for p in row["candidates"]]
    for name, lines in (("questions", questions), ("corpus", passages)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    ranked = [(f"q{i}", p["id"], 20.5 + j) for i, row in enumerate(rows) for j, p in enumerate(row["candidates"])]
    (tmp_path / "in.trec").write_text("".join(f"{q} Q0 {p} 1 {score} bm25\n" for q, p, score in ranked))
    return tmp_path, rows


def arguments(pair, folder, *more):
    files = ["--run", folder / "in.trec", "--input", folder / "questions.jsonl", "--output", folder / "out.trec"]
    return [
        "rerank",
        "--model_name_or_path",
        pair,
        *files,
        "--corpus",
        folder / "corpus.jsonl",
        "--dtype",
        "float32",
        *more,
    ]


def as_evaluated(path):
    """Return the rankings as trec_eval and ir_measures see them: by score, whatever the rank says."""
    with path.open() as file:
        scores = pytrec_eval.parse_run(file)
    order = {query: sorted(found, key=lambda id: (found[id], id), reverse=True) for query, found in scores.items()}
    seen = {}
    for line in ir_measures.read_trec_run(str(path)):
        seen.setdefault(line.query_id, []).append((line.score, line.doc_id))
    assert order == {query: [id for _, id in sorted(found, reverse=True)] for query, found in seen.items()}
    return order


@pytest.mark.parametrize(("depth", "top_k"), [(None, None), (5, 2), (99, None)])
def test_the_first_are_ranked_anew_and_the_others_follow(trained_pair, inputs, depth, top_k):
    folder, rows = inputs
    more = [*(["--num_candidates", depth] if depth else []), *(["--top_k", top_k] if top_k else [])]
    result = run(*arguments(trained_pair, folder, *more))
    assert result.exit_code == 0, result.stderr
    assert f"wrote {folder / 'out.trec'}: 5 rankings, of each the first {depth or 4} passages anew" in result.stdout
    selector = Selector.from_pretrained(trained_pair, dtype="float32")
    evaluated = as_evaluated(folder / "out.trec")
    for i, row in enumerate(rows):
        ranking = row["candidates"][::-1]
        found = selector.rank(row["question"], ranking[: depth or 4], top_k)
        anew = [ranking[one["corpus_id"]]["id"] for one in found]
        expected = [*anew, *(p["id"] for p in ranking if p["id"] not in anew)]
        assert evaluated[f"q{i}"] == expected
        scored = read_run(folder / "out.trec")[f"q{i}"]
        assert [score for _, score in scored[: len(anew)]] == pytest.approx([one["score"] for one in found], abs=1e-4)


def test_questions_that_only_one_file_has_are_counted(trained_pair, inputs):
    folder, _ = inputs
    lines = (folder / "questions.jsonl").read_text().splitlines(keepends=True)
    (folder / "questions.jsonl").write_text("".join([*lines[:2], '{"id": "other", "question": "Who?"}\n']))
    result = run(*arguments(trained_pair, folder))
    assert result.exit_code == 0, result.stderr
    assert f"{folder / 'in.trec'} ranks nothing for 1 of 3 questions" in result.stdout
    assert f"does not hold 3 of the questions of {folder / 'in.trec'}" in result.stdout
    assert sorted(as_evaluated(folder / "out.trec")) == ["q0", "q1"]


def test_ids_of_another_kind_are_an_error(trained_pair, inputs):
    folder, _ = inputs
    (folder / "questions.jsonl").write_text('{"question": "Who?"}\n')
    result = run(*arguments(trained_pair, folder))
    assert result.exit_code == 2
    assert "ranks nothing for any of the questions of" in result.stderr
    assert "such as ['1']" in result.stderr
    assert not (folder / "out.trec").exists()


def test_one_source_of_passages_is_needed(trained_pair, inputs):
    folder, _ = inputs
    result = run(*arguments(trained_pair, folder, "--prebuilt", "wiki"))
    assert result.exit_code == 2
    assert "give one of --index_dir" in result.stderr
    (folder / "corpus.jsonl").write_text('{"id": "0-0", "title": "", "text": "one"}\n')
    result = run(*arguments(trained_pair, folder))
    assert result.exit_code == 2
    assert "corpus.jsonl holds no passage" in result.stderr


def evaluate(pair, rows, folder):
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ["--output_dir", folder / "out", "--max_new_tokens", 1, "--systems", "no retrieval"]
    result = run("evaluate", "--model_name_or_path", pair, "--dataset_name", path, *options)
    assert result.exit_code == 0, result.stderr
    return result.stdout


def test_an_evaluation_leaves_the_ranking_of_each_system(trained_pair, inputs):
    folder, rows = inputs
    rows = [{**row, "id": f"q-{i}"} for i, row in enumerate(rows[:3])]
    assert f"Run files: {folder / 'out' / 'runs'}\n" in evaluate(trained_pair, rows, folder)
    names = {
        "start-retriever-order",
        "start",
        "trained-retriever-order",
        "trained",
    }  # Without one that retrieves none.
    assert {path.name for path in (folder / "out" / "runs").iterdir()} == {f"{name}.run.txt" for name in names}
    results = json.loads((folder / "out" / "results.json").read_text())
    for system in ("start", "trained"):
        expected = [prediction["ranking"] for prediction in results["predictions"][system]]
        found = as_evaluated(folder / "out" / "runs" / f"{system}.run.txt")
        assert [found[row["id"]] for row in rows] == expected
    gold = {row["id"]: dict.fromkeys(row["gold_ids"], 1) for row in rows}
    measured = ir_measures.calc_aggregate(
        [ir_measures.R @ 2], gold, ir_measures.read_trec_run(str(Path(folder / "out" / "runs" / "trained.run.txt")))
    )
    assert measured[ir_measures.R @ 2] == pytest.approx(results["systems"]["trained"]["recall@2"])


def test_ids_that_no_run_file_can_hold_are_told(trained_pair, inputs):
    folder, rows = inputs
    rows = [{**rows[0], "id": "a b"}]
    assert "No run files: query id 'a b' is empty or holds white space" in evaluate(trained_pair, rows, folder)
    assert (folder / "out" / "results.json").is_file()
