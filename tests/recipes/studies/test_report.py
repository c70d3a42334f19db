"""The report: its figures against the rows', its files whole, and nothing in it from elsewhere."""

import gc
import json
import re
import weakref
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from matplotlib.image import imread

from dro_trl.recipes.studies.parsing import parse_study
from dro_trl.recipes.studies.report import load_questions, write_report
from dro_trl.recipes.studies.running import run_study
from tests.helpers.tiny_models import tiny_questions
from tests.helpers.training import save_start

ROOT = Path(__file__).resolve().parents[3]
COMMAND = "dro-trl compare --config study.yaml"


class Page(HTMLParser):
    """Collects a page's text, and everything that its elements would load."""

    def __init__(self, text):
        super().__init__()
        self.loaded, self.tags, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.loaded += [value for name, value in attrs if name in ("src", "srcset", "href", "data", "action")]

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def written(make_study, tmp_path):
    study, rows, questions = make_study(tmp_path)
    page = write_report(study, rows, questions, COMMAND)
    return page, json.loads(page.with_suffix(".json").read_text()), rows


def test_the_figures_are_those_of_the_rows(written):
    _, report, rows = written
    assert report["trained"] == ["on the CPU in bfloat16 (weights in float32)"]
    assert list(report["systems"])[:2] == ["start, retriever order", "start"]
    assert len(report["systems"]) == 2 + 2 * 3
    for method in ("dro", "grpo", "dro, no control variate"):
        of_method = [row["systems"]["trained"] for row in rows if row["method"] == method]
        found = report["systems"][method]
        for metric in ("recall@1", "recall@2", "em", "f1", "mrr"):
            assert found[metric] == pytest.approx(sum(row[metric] for row in of_method) / 2)
        assert (found["n"], found["seeds"]) == (40, [0, 1])
    by_pair = {(c["system"], c["baseline"], c["metric"]): c for c in report["comparisons"]}
    assert len(by_pair) == len(report["comparisons"]) == 2 * 3 + 3 * 3 + 3 * 2
    for (system, baseline, metric), comparison in by_pair.items():
        expected = report["systems"][system][metric] - report["systems"][baseline][metric]
        assert comparison["delta"] == pytest.approx(expected)
        assert comparison["ci95"][0] <= comparison["delta"] <= comparison["ci95"][1]
        assert (comparison["n"], comparison["seeds"], comparison["seed"]) == (40, [0, 1], 0)
    assert by_pair["dro", "start, retriever order", "recall@2"]["verdict"] == "better"
    assert by_pair["dro, no control variate", "dro", "recall@2"]["verdict"] == "worse"
    assert by_pair["grpo", "dro", "recall@2"]["verdict"] == "not told apart"
    cost = report["costs"]["grpo"]
    assert (cost["train_seconds"], cost["train_peak_memory_bytes"]) == (151, 3_000_000_001)
    assert cost["tokens_read"] == pytest.approx(2.5e6, abs=10)
    assert (cost["steps"], cost["selections_drawn"], report["equal_samples"]) == ([40], [1280], True)


def test_examples_are_questions_on_which_methods_differ(written):
    _, report, rows = written
    assert len(report["examples"]) == 3
    for example in report["examples"]:
        shown = {system["system"]: system for system in example["systems"]}
        assert list(shown) == ["start, retriever order", "dro", "grpo", "dro, no control variate"]
        assert len({shown[m]["right"] for m in ("dro", "grpo", "dro, no control variate")}) == 2
        predicted = rows[0]["predictions"]["trained"][example["row"] - 1]
        assert (example["question"], shown["dro"]["answer"]) == (predicted["question"], predicted["answer"])
        gold = [passage_id in predicted["gold_ids"] for passage_id in predicted["ranking"]]
        assert [passage["gold"] for passage in shown["dro"]["passages"]] == gold


def test_both_forms_say_the_same_and_need_nothing_from_elsewhere(written):
    path, report, _ = written
    page, markdown = Page(path.read_text()), path.with_suffix(".md").read_text()
    assert page.loaded
    assert all(value.startswith(("data:", "#")) for value in page.loaded)
    assert not {"script", "iframe", "object"} & set(page.tags)
    assert not re.search(r"url\(|@import|https?:", path.read_text())
    for comparison in report["comparisons"]:
        assert comparison["sentence"] in " ".join(page.text.split())
        assert f"- {comparison['sentence']}\n" in markdown
    for text in (" ".join(page.text.split()), " ".join(markdown.split())):
        assert COMMAND in text
        assert report["bootstrap"] in text
        assert f"{report['systems']['grpo']['em']:.3f}" in text
        assert "control_variate: false" in text
        assert "Trained on the CPU in bfloat16 (weights in float32)." in text
        assert "which is not the variance of the gradient" in text or "not the variance of the gradient" in text
    images = re.findall(r"!\[[^]]+\]\((plots/[^)]+\.png)\)", markdown)
    assert len(images) == len(set(images)) == page.tags.count("img") == 3 + 3 + 7
    for image in images:
        assert imread(path.parent / image)[..., :3].std() > 0.02
        assert (path.parent / image).with_suffix(".dark.png").is_file()


def test_names_and_texts_cannot_break_a_page(make_study, tmp_path):
    hostile = "|b <script>x</script> ](http://e)\n# *x* `y` ```\n"
    study, rows, questions = make_study(tmp_path, methods={f"a{hostile}": ({}, 0.9), "c": ({}, 0.3)}, title=hostile)
    study.recipe["prompt_texts"] = {"question": hostile, "fence": "```\n<script>\n````"}
    study = replace(study, eval_dataset_name=hostile)
    for question in questions:
        question["question"] += hostile
        question["answers"] = [hostile]
        for passage in question["candidates"]:
            passage["title"] = passage["text"] = hostile
    for row in rows:
        for predictions in row["predictions"].values():
            for prediction in predictions:
                prediction |= {"answer": hostile, "answers": [hostile]}
    rows[0]["predictions"]["trained"][0]["answer"] = "another"  # An example to be shown.
    page = write_report(study, rows, questions, f"{COMMAND} {hostile}```")
    assert "script" not in Page(page.read_text()).tags
    text = page.with_suffix(".md").read_text()
    lines = text.splitlines()
    assert any(
        line.startswith("| a\\|b &lt;script&gt;x&lt;/script&gt; ]\\(http://e) # \\*x\\* \\`y\\`") for line in lines
    )
    assert sum(line.startswith("# ") for line in lines) - 1 == text.count(
        f"{COMMAND} |b"
    )  # In the block of the command.
    # Outside blocks of code, whose fences are longer than any in them, no markup is left of any text.
    fences = re.findall(r"^(`{3,})\w*$", text, re.MULTILINE)
    assert [len(fence) for fence in fences if len(fence) > 3] == [4, 4, 5, 5]
    outside = re.sub(r"^(`{4,})\w*\n.*?^\1$", "", text, flags=re.MULTILINE | re.DOTALL)
    assert "side by side" in outside
    assert not re.search(r"<script|(?<!\\)`|(?<!\\)\]\(http", outside)
    for above, line in zip(lines, lines[1:], strict=False):
        if above.startswith("|") and line.startswith("|"):  # Every row of a table has as many cells as its first.
            assert above.replace("\\|", "").count("|") == line.replace("\\|", "").count("|")


def test_what_is_left_out_is_said(make_study, tmp_path):
    study, rows, questions = make_study(tmp_path)
    rows[1]["training"] |= {"resumed": True, "seconds": 5.0, "selections_drawn": 640}
    page = write_report(study, rows[:4], questions, COMMAND)
    report = json.loads(page.with_suffix(".json").read_text())
    assert (report["rows_finished"], report["rows_planned"], report["equal_samples"]) == (4, 6, False)
    assert (report["costs"]["grpo"]["train_seconds"], report["costs"]["grpo"]["rows_resumed"]) == (None, 1)
    for text in (Page(page.read_text()).text, page.with_suffix(".md").read_text()):
        assert "4 of 6 runs" in text
        assert "Sample counts differ" in text
        assert re.search(r"1 of 1 (resumed, )?left out", text)
    compared = {(c["system"], tuple(c["seeds"])) for c in report["comparisons"]}
    assert ("dro", (0, 1)) in compared
    assert ("grpo", (0,)) in compared


def test_rows_of_other_questions_are_refused(make_study, tmp_path):
    study, rows, questions = make_study(tmp_path)
    rows[2]["predictions"]["trained"] = rows[2]["predictions"]["trained"][::-1]
    with pytest.raises(ValueError, match="seed 0, was evaluated on other questions than 'dro'"):
        write_report(study, rows, questions, COMMAND)


class Held(dict):
    """A dict that can be referred to weakly."""


class OneAtATime:
    """Rows as their files give them: read anew in each pass, where a loop may still hold the one before."""

    def __init__(self, rows):
        self.texts, self.passes = [json.dumps(row) for row in rows], 0

    def __iter__(self):
        self.passes += 1
        given = []
        for text in self.texts:
            row = json.loads(text)
            row["predictions"] = Held(row["predictions"])
            gc.collect()
            assert not any(reference() for reference in given[:-1])
            given.append(weakref.ref(row["predictions"]))
            yield row
            del row


def test_the_predictions_of_one_row_are_held_at_a_time(written, make_study, tmp_path):
    _, report, _ = written
    study, rows, questions = make_study(tmp_path / "again")
    files = OneAtATime(rows)
    page = write_report(study, files, questions, COMMAND)
    assert json.loads(page.with_suffix(".json").read_text()) == report
    assert files.passes == 2


@pytest.mark.parametrize("name", ["encyclopedia", "ablations", "natural_questions"])
def test_every_study_runs(name, tmp_path, commands):
    """Its own launch command on the first line; all its methods are parsed, its first and its last run."""
    path = ROOT / "recipes" / "studies" / f"{name}.yaml"
    assert path.read_text().split()[:5] == ["#", "dro-trl", "compare", "--config", f"recipes/studies/{name}.yaml"]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in tiny_questions(5, 6, 5, 6)))
    layers = ["sliding_attention", "full_attention"] * 9
    given = {
        "model_name_or_path": save_start(tmp_path / "start", "gemma3", num_hidden_layers=18, layer_types=layers),
        "dataset_name": tmp_path / "rows.jsonl",
        "eval_dataset_name": tmp_path / "rows.jsonl",
        "output_dir": tmp_path / "out",
        "seeds": [0],
    }
    options = [part for option, value in given.items() for part in (f"--{option}", str(value))]
    whole = parse_study(["--config", str(path), *options])
    assert len(whole.methods) >= 5
    names = list(whole.methods)
    methods = {method: whole.methods[method] for method in (names[0], names[-1])}
    study = parse_study(["--config", str(path), *options, "--methods", json.dumps(methods)])
    page = write_report(study, run_study(study), load_questions(study), COMMAND)
    report = json.loads(page.with_suffix(".json").read_text())
    assert report["rows_finished"] == 2
    assert report["equal_samples"] == (name != "ablations")
    assert report["systems"][names[0]]["n"] == 4
