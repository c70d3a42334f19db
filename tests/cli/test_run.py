"""`dro-trl run`: the whole chain, what is done again and what is not, and a run that is killed."""

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml
from safetensors.torch import load_file
from typer.testing import CliRunner

from dro_trl.cli.app import app
from dro_trl.files.folders import locked
from dro_trl.files.writing import write_jsonl
from dro_trl.models.saving import read_config
from dro_trl.recipes.runs import running
from dro_trl.recipes.runs.stage import Stage
from tests.helpers.training import changed, save_start

ROOT = Path(__file__).resolve().parents[2]
TOWNS = ["Oslo", "Lima", "Cairo", "Perth", "Quito", "Turin"]
REWARD = """
import time

def prefer_late(selections, **kwargs):
    time.sleep({seconds})
    return [float(sum(selection)) for selection in selections]
"""


def text_of(town):
    return f"{town} is a town whose club was founded by Ada {town}."


def raw(town):
    return {
        "_id": f"q-{town}",
        "question": f"Who founded the club of {town}?",
        "answer": f"Ada {town}",
        "supporting_facts": [[town, 0]],
        "context": [[town, [text_of(town)]]],
    }


def write_inputs(folder):
    """Write raw questions, a corpus, a model, and a recipe with a reward beside it."""
    save_start(folder / "start")
    for name, towns in (("a", TOWNS[:2]), ("b", TOWNS[2:4]), ("dev", TOWNS[4:])):
        write_jsonl(folder / f"{name}.jsonl", map(raw, towns))
    write_jsonl(folder / "corpus.jsonl", [{"id": f"p-{t}", "title": t, "text": text_of(t)} for t in TOWNS])
    recipe = {
        "output_dir": "out",
        "model_name_or_path": "start",
        "prepare": {
            "train": [{"format": "hotpotqa", "input": "a.jsonl"}, {"format": "2wikimultihopqa", "input": "b.jsonl"}],
            "dev": {"format": "hotpotqa", "input": "dev.jsonl"},
        },
        "index": {"corpus": "corpus.jsonl"},
        "retrieve": {"num_candidates": 4},
        "train": {
            "num_selected": 2,
            "num_selections": 3,
            "per_device_train_batch_size": 1,
            "max_steps": 6,
            "save_steps": 1,
            "learning_rate": 0.01,
            "reward_funcs": ["late_reward.prefer_late", "dro_trl.AnswerLogLikelihood"],
            "report_to": "none",
            "use_cpu": True,
            "disable_tqdm": True,
        },
        "evaluate": {"max_new_tokens": 2, "cutoffs": [1, 2]},
    }
    (folder / "recipes").mkdir()
    (folder / "recipes" / "late_reward.py").write_text(REWARD.format(seconds=0))
    (folder / "recipes" / "run.yaml").write_text(yaml.safe_dump(recipe))


def edit(folder, section, **lines):
    path = folder / "recipes" / "run.yaml"
    recipe = yaml.safe_load(path.read_text())
    recipe[section] |= lines
    path.write_text(yaml.safe_dump(recipe))


def start_run(folder, *options):
    """Start `dro-trl run` in a process of its own, and its commands in theirs."""
    command = [sys.executable, "-m", "dro_trl", "run", "--config", "recipes/run.yaml", *options]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def run_inside(patch):
    """Have commands run in this process from now on, which spares their imports; return the list of them."""
    given = []

    def run_command(stage, arguments, lock):
        given.append(arguments)
        patch.setattr(sys, "path", [*sys.path, *stage.python_path])
        result = CliRunner().invoke(app, arguments)
        if result.exit_code:
            raise RuntimeError(result.output) from result.exception

    patch.setattr(Stage, "_run_command", run_command)
    patch.setattr(running, "in_a_process", lambda function, *arguments: function(*arguments))
    return given


@pytest.fixture
def commands(monkeypatch):
    return run_inside(monkeypatch)


def run(*options):
    result = CliRunner().invoke(app, ["run", "--config", "recipes/run.yaml", *map(str, options)])
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


def ran():
    """Return the stages that the last run here did not find done."""
    with open("out/stages.json") as file:
        rows = json.load(file)["stages"]
    return [row["stage"] for row in rows if row["state"] == "ran"]


@pytest.fixture(scope="module")
def retrieved(tmp_path_factory):
    """A folder whose run went as far as retrieval, all in processes."""
    folder = tmp_path_factory.mktemp("run")
    write_inputs(folder)
    process = start_run(folder, "--until", "retrieve")
    output, _ = process.communicate(timeout=280)
    assert process.returncode == 0, output
    assert "$ dro-trl index --corpus corpus.jsonl --index_dir out/2-index/index --overwrite\n" in output
    return folder


@pytest.fixture(scope="module")
def finished(retrieved, tmp_path_factory):
    """A folder whose run is finished."""
    folder = tmp_path_factory.mktemp("finished") / "copy"
    shutil.copytree(retrieved, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run_inside(patch)
        run()
    return folder


@pytest.fixture
def here(finished, tmp_path, monkeypatch, commands):
    """A copy of the finished run as the working directory."""
    shutil.copytree(finished, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def test_every_stage_leaves_its_products_and_its_record(finished):
    rows = json.loads((finished / "out" / "stages.json").read_text())["stages"]
    # The folder was copied after the first three: what they made is known by its contents.
    assert [(row["stage"], row["state"]) for row in rows] == [
        ("prepare", "cached"),
        ("index", "cached"),
        ("retrieve", "cached"),
        ("train", "ran"),
        ("evaluate", "ran"),
    ]
    for row in rows:
        folder = finished / row["folder"]
        record = json.loads((folder / "stage.json").read_text())
        assert list(record["products"]) == row["products"]
        assert all((folder / product).exists() for product in row["products"])
        assert record["inputs"]["dro_trl"]
        assert record["seconds"] >= 0
        assert not (folder / "started.json").exists()
    questions = [json.loads(line) for line in (finished / "out/3-retrieve/train.jsonl").read_text().splitlines()]
    assert sorted(row["id"] for row in questions) == sorted(f"q-{town}" for town in TOWNS[:4])
    assert all(row["gold_ids"][0] in {p["id"] for p in row["candidates"]} for row in questions)
    results = json.loads((finished / "out/6-evaluate/results.json").read_text())
    assert list(results["systems"])[-1] == "trained"
    assert len(results["predictions"]["trained"]) == 2


def test_a_second_run_does_nothing_wherever_the_folder_is(here, commands):
    before = {path: path.stat().st_mtime_ns for path in (here / "out").rglob("stage.json")}
    output = run()
    assert commands == []
    assert ran() == []
    assert "Results: out/stages.json" in output
    shutil.move(here / "out", here / "elsewhere")
    run("--output_dir", "elsewhere")
    assert commands == []
    assert [path.stat().st_mtime_ns for path in (here / "elsewhere").rglob("stage.json")] == list(before.values())


@pytest.mark.parametrize(
    ("section", "lines", "expected", "reason"),
    [
        ("evaluate", {"max_new_tokens": 1}, ["evaluate"], "evaluate.max_new_tokens was 2 and is now 1"),
        ("train", {"learning_rate": 0.02}, ["train", "evaluate"], "train.learning_rate was 0.01 and is now 0.02"),
        (
            "retrieve",
            {"num_candidates": 3},
            ["retrieve", "train", "evaluate"],
            "retrieve.dev.num_candidates was 4 and is now 3",
        ),
        # Another index, but the same candidates: nothing that training reads has changed.
        ("index", {"threads": 1}, ["index", "retrieve"], "index.threads was 'not set' and is now 1"),
    ],
)
def test_a_change_runs_its_stage_and_those_whose_inputs_it_changes(here, section, lines, expected, reason):
    old = [
        (here / "out" / "5-train" / "stage.json").read_text(),
        (here / "out" / "6-evaluate/results.json").read_text(),
    ]
    edit(here, section, **lines)
    assert reason in run()
    assert ran() == expected
    folders = {"index": "2-index", "retrieve": "3-retrieve", "train": "5-train", "evaluate": "6-evaluate"}
    kept = {path.name for path in (here / "out" / "earlier").iterdir()}
    assert kept == {f"{folders[name]}-1" for name in expected}
    if "train" in expected:
        assert (here / "out/earlier/5-train-1/stage.json").read_text() == old[0]
        assert (here / "out/earlier/6-evaluate-1/results.json").read_text() == old[1]
    run()
    assert ran() == []


def test_contents_count_and_not_names(here):
    shutil.move(here / "corpus.jsonl", here / "same.jsonl")
    edit(here, "index", corpus="same.jsonl")
    run()
    assert ran() == []
    rows = (here / "same.jsonl").read_text()
    (here / "same.jsonl").write_text(rows.replace("club was founded", "club had been founded"))
    output = run("--until", "index")
    assert "prepare.train[1].corpus: same.jsonl has changed" in output
    assert ran() == ["prepare", "index"]


def test_code_of_ones_own_counts(here):
    with (here / "recipes" / "late_reward.py").open("a") as file:
        file.write("# edited\n")
    assert "train.reward_funcs.late_reward: recipes/late_reward.py has changed" in run("--until", "train")
    assert ran() == ["train"]


def test_products_that_are_gone_or_edited_are_made_again(here):
    (here / "out" / "6-evaluate" / "results.json").unlink()
    (here / "out" / "1-prepare" / "dev.jsonl").write_text("{}\n")
    (here / "out" / "5-train" / "model" / "notes.txt").write_text("A folder may be added to.")
    output = run()
    assert "out/1-prepare/dev.jsonl was changed since" in output
    assert "out/6-evaluate/results.json is missing" in output
    assert ran() == ["prepare", "evaluate"]
    assert (here / "out" / "earlier" / "1-prepare-1" / "dev.jsonl").read_text() == "{}\n"


@pytest.mark.parametrize("how", ["emptied", "cut", "changed", "gone"])
def test_a_folder_is_not_called_cached_where_its_files_are_not_what_was_made(here, how):
    index, model = here / "out" / "2-index" / "index", here / "out" / "5-train" / "model"
    assert "runs" not in run("--dry_run")
    for path in [*index.glob("_*.fdt"), *model.rglob("*.safetensors")]:
        content = path.read_bytes()
        path.write_bytes({"emptied": b"", "cut": content[:-1], "changed": content[:-1] + b"?"}.get(how, content))
        if how == "gone":
            path.unlink()
    output = run("--dry_run")
    said = "is missing" if how == "gone" else "was changed since"
    assert re.search(rf"index: runs \(out/2-index/index/_\w+\.fdt {said}\)", output)
    shutil.rmtree(index)
    assert re.search(r"index: runs \(out/2-index/index/\S+ is missing\)", run("--dry_run"))


def test_a_record_that_is_cut_off_is_named_with_what_to_do(here):
    for name in ("out/2-index/stage.json", "out/.digests.json"):
        (here / name).write_bytes((here / name).read_bytes()[:40])
        result = CliRunner().invoke(app, ["run", "--config", "recipes/run.yaml", "--dry_run"])
        assert result.exit_code == 2
        assert re.match(rf"error: {name} is cut off or damaged \(.*\); delete it: ", result.stderr)
        (here / name).unlink()


def test_a_dry_run_says_what_would_run_and_why(here, commands):
    edit(here, "retrieve", num_candidates=2)
    before = {path: path.stat().st_mtime_ns for path in here.rglob("*")}
    output = run("--dry_run")
    assert "prepare: cached\nindex: cached\nretrieve: runs (retrieve.dev.num_candidates was 4 and is now 2; " in output
    assert "train: runs (only if what it reads changes: retrieve)" in output
    assert "  $ PYTHONPATH=recipes dro-trl train --config out/5-train/recipe.yaml\n" in output
    assert {path: path.stat().st_mtime_ns for path in here.rglob("*")} == before
    output = run("--dry_run", "--output_dir", "new")
    assert "evaluate: runs (not run yet: retrieve, train)" in output
    assert commands == []
    assert not (here / "new").exists()


def test_redo_and_until(here, commands):
    run("--redo", "retrieve", "--until", "train")
    assert ran() == ["retrieve", "train"]
    assert (here / "out" / "earlier" / "5-train-1" / "model").is_dir()
    result = CliRunner().invoke(app, ["run", "--config", "recipes/run.yaml", "--until", "warmup"])
    assert "--until warmup: the recipe has the stages prepare, index, retrieve, train, evaluate" in result.stderr


def test_a_folder_is_used_by_one_run_at_a_time(here):
    with locked(here / "out"):
        result = CliRunner().invoke(app, ["run", "--config", "recipes/run.yaml"])
    assert result.exit_code == 2
    assert result.stderr.startswith("error: out is in use by process")
    run()


def test_models_are_warmed_up_before_they_train_each_other(retrieved, tmp_path, monkeypatch, commands):
    shutil.copytree(retrieved, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    path = tmp_path / "work" / "recipes" / "run.yaml"
    lines = yaml.safe_load(path.read_text())
    common = {"num_selected": 2, "max_steps": 2, "learning_rate": 1e-3, "report_to": "none", "use_cpu": True}
    lines["warmup"] = {"generator": common, "selector": {**common, "teacher": "likelihoood"}}
    path.write_text(yaml.safe_dump(lines))
    result = CliRunner().invoke(app, ["run", "--config", "recipes/run.yaml"])
    assert "error: recipes/run.yaml: warmup.selector: teacher='likelihoood' must be one of 'gold'" in result.stderr
    assert commands == []
    lines["warmup"]["selector"]["teacher"] = "likelihood"
    path.write_text(yaml.safe_dump(lines))
    run("--until", "train")
    assert [stage.partition(".")[0] for stage in ran()] == ["warmup", "warmup", "train"]
    warm = {part: f"out/4-warmup-{part}/model" for part in ("generator", "selector")}
    starts = read_config(Path("out/5-train/model"))["start"]
    assert {part: str(Path(start).relative_to(Path.cwd())) for part, start in starts.items()} == warm
    start = load_file("start/model.safetensors")
    assert all(changed(start, load_file(f"{folder}/model.safetensors")) for folder in warm.values())


def test_mistakes_in_a_training_recipe_are_found_before_anything_runs(here, commands):
    edit(here, "retrieve", num_candidates=3)
    for lines, message in (
        ({"num_selected": 0}, "error: recipes/run.yaml: train: num_selected=0 must be a whole number of at least 1"),
        (
            {"num_selectd": 2},
            "error: recipes/run.yaml: train: unknown key 'num_selectd'; did you mean 'num_selected'?",
        ),
    ):
        edit(here, "train", **lines)
        result = CliRunner().invoke(app, ["run", "--config", "recipes/run.yaml"])
        assert result.exit_code == 2
        assert message in result.stderr
    mistake = running.find_mistake("train", {"model_name_or_path": "x", "dataset_name": "y"}, ["--num_proces", "2"])
    assert mistake == "launch: unknown key 'num_proces'; did you mean 'num_processes'?"
    assert commands == []


def test_a_command_that_fails_ends_the_run_and_is_where_it_goes_on(tmp_path):
    write_inputs(tmp_path)
    good = (tmp_path / "dev.jsonl").read_text()
    (tmp_path / "dev.jsonl").write_text("{}\n")
    process = start_run(tmp_path, "--until", "prepare")
    output, _ = process.communicate(timeout=250)
    assert process.returncode == 2
    assert "row 1" in output
    assert (
        "error: stage prepare: `dro-trl prepare --corpus corpus.jsonl --format hotpotqa --input dev.jsonl " in output
    )
    assert output.strip().endswith(
        "ended with exit code 2; its own message is above. The same `dro-trl run` goes on there"
    )
    assert not (tmp_path / "out" / "1-prepare" / "stage.json").exists()
    (tmp_path / "dev.jsonl").write_text(good)
    process = start_run(tmp_path, "--until", "prepare")
    output, _ = process.communicate(timeout=250)
    assert process.returncode == 0
    assert "changed since it was interrupted: prepare.dev.input: dev.jsonl has changed" in output


def test_ended_by_sigterm_it_takes_its_commands_along(tmp_path):
    passage = "marie found radium " * 30
    write_jsonl(
        tmp_path / "corpus.jsonl", ({"id": f"{n}", "title": "", "text": f"{passage}{n}"} for n in range(90_000))
    )
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "run.yaml").write_text("output_dir: out\nindex: {corpus: corpus.jsonl}\n")
    process = start_run(tmp_path)
    deadline = time.monotonic() + 200
    while not list((tmp_path / "out" / "2-index").glob(".index.*.partial/*.fd*")):
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    started = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 128 + 15
    assert psutil.wait_procs(started, timeout=30)[1] == []
    assert [path.name for path in (tmp_path / "out" / "2-index").iterdir()] == ["started.json"]


@pytest.mark.realdata
def test_the_real_samples_as_far_as_retrieval(shared_data, tmp_path, monkeypatch, commands):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").symlink_to(shared_data.resolve())
    parts = {
        split: [
            {"format": "hotpotqa", "input": f"data/hotpotqa_{split}_sample.jsonl", "max_samples": 100},
            {"format": "2wikimultihopqa", "input": f"data/2wikimultihopqa_{split}_sample.jsonl", "max_samples": size},
        ]
        for split, size in (("train", 160), ("dev", 100))
    }
    recipe = {"output_dir": "out", "prepare": parts, "index": {"corpus": "data/wiki_pool_corpus.jsonl"}}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({**recipe, "retrieve": {"num_candidates": 20}}))
    result = CliRunner().invoke(app, ["run", "run.yaml"])
    assert result.exit_code == 0, (result.output, result.exception)
    folder = tmp_path / "out" / "3-retrieve"
    recall = {}
    for split, size in (("train", 260), ("dev", 200)):
        rows = [json.loads(line) for line in (folder / f"{split}.jsonl").read_text().splitlines()]
        assert len(rows) == size
        assert {len(row["candidates"]) for row in rows} == {20}
        recall[split] = json.loads((folder / f"{split}.jsonl.results.json").read_text())["systems"]["bm25"]
    assert 0.6 < recall["dev"]["recall@5"] < recall["dev"]["recall@20"] < 0.95
    print(recall)


def test_killed_in_training_it_goes_on_to_the_same_end(retrieved, finished, tmp_path):
    folder = tmp_path / "work"
    shutil.copytree(retrieved, folder)
    # Slow enough to be killed in its midst.
    (folder / "recipes" / "late_reward.py").write_text(REWARD.format(seconds=1))
    process = start_run(folder, "--until", "train")
    model = folder / "out" / "5-train" / "model"
    deadline = time.monotonic() + 250
    while not (model / "checkpoint-2" / "trainer_state.json").exists():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    [trainer] = [child for child in psutil.Process(process.pid).children() if "train" in child.cmdline()]
    process.kill()
    process.wait()
    # The training that was left alone holds the folder.
    with pytest.raises(BlockingIOError, match="or one that it started"), locked(folder / "out"):
        pass
    trainer.kill()
    psutil.wait_procs([trainer], timeout=30)
    process.communicate()
    assert not (model / "train_results.json").exists()

    resumed = start_run(folder, "--until", "train")
    output, _ = resumed.communicate(timeout=280)
    assert resumed.returncode == 0, output
    assert "[prepare] cached\n[index] cached\n[retrieve] cached\n[train] goes on: it was interrupted" in output
    assert json.loads((folder / "out/5-train/stage.json").read_text())["resumed"] is True
    for part in ("selector", "generator"):
        whole, again = (load_file(f / part / "model.safetensors") for f in (finished / "out/5-train/model", model))
        assert changed(whole, again) == set()
    logs = []
    for path in (finished / "out/5-train/model", model):
        history = json.loads((path / "trainer_state.json").read_text())["log_history"]
        logs.append([record for record in history if "train_runtime" not in record])
    assert logs[0] == logs[1]
