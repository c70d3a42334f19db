"""The printed tables and the JSON file."""

import dataclasses
import io
import json
from typing import Any

import pytest
from rich.console import Console

from dro_trl.evaluation.comparison import Comparison, EvaluationReport, Group, compare
from dro_trl.evaluation.groups import Column
from dro_trl.evaluation.report import print_report, write_results


@pytest.fixture
def report(make_system) -> EvaluationReport:
    systems = {
        "bm25": make_system(0, 0.3, 0.2, gold_every=2),
        "untrained": make_system(1, 0.3, 0.2, gold_every=2),
        "trained": make_system(2, 0.95, 0.2, gold_every=2),
    }
    return compare(systems, target="trained", baselines=["bm25", "untrained"], ks=[1, 2], seed=3, n_resamples=1000)


def printed(report: EvaluationReport, width: int = 80, **kwargs: Any) -> str:
    console = Console(file=io.StringIO(), width=width)
    print_report(report, console, **kwargs)
    return console.file.getvalue()


def test_every_system_and_difference_is_printed(report):
    lines = printed(report).splitlines()
    for name, scores in report.systems.items():
        row = next(line.split() for line in lines if line.split()[:1] == [name])
        assert row[1:] == [
            f"{value:.3f}" for metric, value in scores.items() if not metric.startswith("n_") and metric != "n"
        ]
    text = "\n".join(lines)
    assert "Means over 60 questions; recall, MRR and nDCG over the 30 with gold passages." in text
    assert "paired bootstrap, 1,000 resamples, seed 3" in text
    for comparison in report.comparisons:
        low, high = comparison.ci95
        cells = f"{comparison.delta:+.3f} [{low:+.3f}, {high:+.3f}]" + " *" * comparison.significant
        assert cells in " ".join(text.split())


def test_only_intervals_that_exclude_zero_are_marked(report):
    marked = [line for line in printed(report).splitlines() if line.rstrip().endswith("*")]
    assert len(marked) == sum(comparison.significant for comparison in report.comparisons)
    assert any("recall@1" in line for line in marked)
    assert not any("EM" in line for line in marked)


def test_systems_that_read_the_answer_are_marked(report):
    assert "†" not in printed(report)
    lines = printed(report, reading_answers=["untrained"]).splitlines()
    marked = [line.split("†")[0].strip() for line in lines if "†" in line]
    assert marked == ["untrained", "", "trained − untrained"]
    assert "† reads the answer to choose passages: a reference, no system to use." in lines


@pytest.mark.parametrize("ks", [[1], [1, 5, 20]])
def test_nothing_is_cut_at_80_columns(make_system, ks):
    systems = {name: make_system(0, 0.5, 0.5) for name in ("BM25's own order", "the untrained pair", "[trained]")}
    options = {"target": "[trained]", "baselines": list(systems)[:2], "seed": 0, "n_resamples": 100}
    text = printed(compare(systems, ks=ks, **options))
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    assert "[trained]" in text


def test_scores_that_no_question_has_are_dashes(make_system):
    system = [{**prediction, "gold_ids": None} for prediction in make_system(0, 0.5, 0.5)]
    text = printed(compare({"only": system}, target="only", baselines=[], ks=[1], seed=0, n_resamples=100))
    assert next(line for line in text.splitlines() if "only" in line).split()[1:4] == ["–"] * 3
    assert "over the 0 with gold passages" in text
    assert "Differences" not in text


def test_json_round_trip(report, tmp_path):
    path = write_results(report, tmp_path / "new" / "results.json", {"run_time_s": 1.5, "model": "Zoë"})
    assert path == tmp_path / "new" / "results.json"
    results = json.loads(path.read_text(encoding="utf-8"))
    assert (results.pop("run_time_s"), results.pop("model")) == (1.5, "Zoë")
    results["comparisons"] = [Comparison(**comparison) for comparison in results["comparisons"]]
    assert EvaluationReport(**results) == report
    assert [file.name for file in path.parent.iterdir()] == ["results.json"]


def comparing(make_system, column, ks=(1, 2), **kwargs):
    names = ("start, retriever order", "[start]", "trained")
    systems = {name: make_system(seed, 0.5, 0.5, **kwargs) for seed, name in enumerate(names)}
    options = {"target": "trained", "baselines": names[:2], "seed": 0, "n_resamples": 50}
    return compare(systems, ks=ks, by=column, **options)


def test_groups_are_printed_after_the_scores(make_system):
    report = comparing(make_system, Column("hops", [1 + number % 2 for number in range(60)]))
    lines = printed(report).splitlines()
    start, end = (
        next(i for i, line in enumerate(lines) if line.startswith(text)) for text in ("By hops", "all gold:")
    )
    assert start > next(i for i, line in enumerate(lines) if line.startswith("Means over 60 questions."))
    assert lines[end] == "all gold: whether all gold passages are among the first 2."
    expected = []
    for group in report.groups:
        for number, (name, scores) in enumerate(group.systems.items()):
            count, metrics = [] if number else ["30"], ("recall@2", "all_gold", "em", "f1")
            value = [] if number else [str(group.value)]
            expected.append([*value, *name.split(), *count, *(f"{scores[metric]:.3f}" for metric in metrics)])
    assert [line.split() for line in lines[start:end] if "0." in line or "1.0" in line] == expected
    assert len(expected) == 6


@pytest.mark.parametrize("ks", [[2], [1, 5, 100]])
@pytest.mark.parametrize("gold_every", [1, 7])
def test_groups_of_any_values_fit_80_columns(make_system, ks, gold_every):
    values = ["a [bold]kind[/] of question", None, "x" * 40, True, 0.25, 3]
    column = Column("a long [name] of a column", [values[number % 6] for number in range(60)])
    text = printed(comparing(make_system, column, ks, gold_every=gold_every))
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    assert ("with" in text.partition("By ")[2].partition("Differences")[0]) == (gold_every > 1)
    words = text.split()
    assert {"[bold]kind[/]", "true", "0.25", "–", "[name]"} <= set(words)


def test_groups_round_trip(make_system, tmp_path):
    report = comparing(make_system, Column("kind", ["one", None, 2] * 20))
    results = json.loads(write_results(report, tmp_path / "results.json", {}).read_text())
    assert (results["by"], [group["value"] for group in results["groups"]]) == ("kind", [2, "one", None])
    for part in (results, *results["groups"]):
        part["comparisons"] = [Comparison(**comparison) for comparison in part["comparisons"]]
    results["groups"] = [Group(**group) for group in results["groups"]]
    assert EvaluationReport(**results) == report


def test_a_failed_write_leaves_the_old_file_whole(report, tmp_path):
    path = write_results(report, tmp_path / "results.json", {})
    before = path.read_text()
    with pytest.raises(ValueError, match=r"extra has the keys \['systems'\].*results\.json; rename them"):
        write_results(report, path, {"systems": {}})
    with pytest.raises(ValueError, match="nan"):
        write_results(report, path, {"loss": float("nan")})
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_results(report, path, {"folder": tmp_path})
    assert path.read_text() == before
    assert list(tmp_path.iterdir()) == [path]


def test_an_undefined_score_is_null_in_json(report, tmp_path):
    systems = {"only": {"recall@1": None, "em": 1.0, "n": 1, "n_with_gold": 0}}
    path = write_results(dataclasses.replace(report, systems=systems), tmp_path / "results.json", {})
    assert json.loads(path.read_text())["systems"]["only"]["recall@1"] is None
