"""The quickstart's account of its time; `.ci/run` runs it as a whole, with Gemma."""

import json

from rich.console import Console

from dro_trl.cli.quickstart import Stages


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
