"""The quickstart with tiny models; `.ci/run` runs it as a whole, with Gemma."""

import json
from pathlib import Path

import pytest
from datasets import Dataset
from rich.console import Console
from typer.testing import CliRunner

from dro_trl.cli import quickstart
from dro_trl.cli.app import app
from dro_trl.cli.quickstart import THREE_HOPS, TWO_HOPS, Stages
from dro_trl.data.encyclopedia import FictionalEncyclopedia
from dro_trl.models import gemma
from tests.docs.running import shrink_the_encyclopedia
from tests.helpers.training import save_start


def test_every_stage_is_in_the_summary_and_in_the_results(tmp_path):
    path = tmp_path / "results.json"
    path.write_text(json.dumps({"systems": {"trained": {"em": 0.5}}}))
    console = Console(record=True, width=80)
    stages = Stages(console)
    for name in ("Indexing", "Training", "Asking"):
        stages.begin(name)
    stages.end()
    stages.report(path)
    results = json.loads(path.read_text())
    assert results == {"systems": {"trained": {"em": 0.5}}, "seconds": stages.seconds}
    assert list(stages.seconds) == ["Indexing", "Training", "Asking"]
    _, title, summary = console.export_text().partition("Time")
    assert title
    assert all(name in summary for name in [*stages.seconds, "in all"])


@pytest.mark.parametrize("kinds", [None, ["one_hop", "two_hop", "two_hop", "comparison", "one_hop"]])
def test_the_table_is_by_kind_where_there_are_kinds_and_else_by_hops(trained_pair, tmp_path, kinds):
    rows = [json.loads(line) for line in (trained_pair.parent / "rows.jsonl").read_text().splitlines()]
    hops = [1, 2, 2, 2, 1]
    held_out = Dataset.from_list(rows).add_column("hops", hops)
    if kinds:
        held_out = held_out.add_column("kind", kinds)
    console = Console(record=True, width=80)
    quickstart.evaluate(trained_pair, tmp_path, held_out, 0, console)
    text, results = console.export_text(), json.loads((tmp_path / "results.json").read_text())
    by = "kind" if kinds else "hops"
    assert f"By {by}" in text
    assert results["by"] == by
    counted = [(group["value"], group["systems"]["trained"]["n"]) for group in results["groups"]]
    assert counted == ([("comparison", 1), ("one_hop", 2), ("two_hop", 2)] if kinds else [(1, 2), (2, 3)])


def test_questions_of_three_hops_have_ten_candidates_of_which_three_are_read(tmp_path, monkeypatch):
    layers = ["sliding_attention", "full_attention"] * 5
    start = save_start(tmp_path / "gemma", "gemma3", num_hidden_layers=10, layer_types=layers)
    monkeypatch.setattr(gemma, "gemma_3_270m", lambda: Path(start))
    shrink_the_encyclopedia(monkeypatch)
    data = tmp_path / "out" / "data"
    data.mkdir(parents=True)
    for name in ("corpus.jsonl", "train.top8.jsonl", "mine.top8.jsonl"):  # Of a run before, and somebody's own.
        (data / name).write_text("")
    given = ["quickstart", "--output_dir", str(tmp_path / "out"), "--three_hop", "0.5", "--two_hop", "0.25"]
    result = CliRunner().invoke(app, given)
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in data.glob("*.top*")) == [
        "eval.top10.jsonl",
        "mine.top8.jsonl",
        "train.top10.jsonl",
    ]
    rows = [json.loads(line) for line in (data / "eval.top10.jsonl").read_text().splitlines()]
    assert [len(row["candidates"]) for row in rows] == [10] * 4
    assert sorted(row["kind"] for row in rows) == ["one_hop", "three_hop", "three_hop", "two_hop"]
    config = json.loads((tmp_path / "out" / "model" / "dro_config.json").read_text())
    assert (config["num_candidates"], config["num_selected"]) == (10, 3)
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    counted = [(group["value"], group["systems"]["start"]["n"]) for group in results["groups"]]
    assert counted == [("one_hop", 1), ("three_hop", 2), ("two_hop", 1)]
    assert {"recall@3", "all_gold"} <= results["systems"]["trained"].keys()
    assert all(len(row["ranking"]) == 3 for row in results["predictions"]["trained"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--two_hop", "1.5"], "two_hop is 1.5; it is a part of the questions, from 0 to 1"),
        (["--comparison", "-0.1"], "comparison is -0.1; it is a part of the questions, from 0 to 1"),
        (["--three_hop", "nan"], "three_hop is nan; it is a part of the questions, from 0 to 1"),
        (
            ["--two_hop", "0.7", "--three_hop", "0.4"],
            "two_hop 0.7 + three_hop 0.4 is 1.1, more than all questions; lower one so that the sum is 1 at most",
        ),
    ],
)
def test_parts_that_are_none_end_in_one_line(tmp_path, options, message):
    result = CliRunner().invoke(app, ["quickstart", "--output_dir", str(tmp_path / "out"), *options])
    assert (result.exit_code, result.stderr) == (2, f"error: {message}\n")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("shares", "sizes"), [({}, TWO_HOPS), ({"three_hop": 1.0}, THREE_HOPS)])
def test_the_sizes_hold_all_passages_of_a_question(shares, sizes):
    world = FictionalEncyclopedia.generate(0, 20, 20, **shares)
    assert max(row["hops"] for row in world.train + world.eval) == sizes.num_selected
