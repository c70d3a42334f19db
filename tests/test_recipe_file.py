"""Recipes by their names: those that come with the package are found from any folder, behind one's own files."""

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from dro_trl.cli import app
from dro_trl.estimate_recipe import read_backend
from dro_trl.recipe import parse_recipe
from dro_trl.recipe_file import _COMMANDS, find_recipe, packaged_recipes
from dro_trl.stages.plan import plan_run
from dro_trl.study.parsing import parse_study
from dro_trl.warmup.training import parse_warmup

RECIPES = Path(__file__).resolve().parents[1] / "recipes"
WITH_MODEL = ["--model_name_or_path", "models/mine"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Another working directory than the checkout."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_recipe_has_a_name():
    names = {path.relative_to(RECIPES).as_posix().removesuffix(".yaml") for path in RECIPES.rglob("*.yaml")}
    assert packaged_recipes().keys() == names
    assert {"quickstart", "runs/wikimultihop", "accelerate/zero3"} < names
    assert all(find_recipe(name).samefile(RECIPES / f"{name}.yaml") for name in names)
    result = CliRunner().invoke(app, ["recipes"])
    assert set(result.stdout.split()) == names


@pytest.mark.parametrize(
    ("name", "kind", "found"),
    [
        ("quickstart", "", "quickstart.yaml"),
        ("quickstart.yaml", "", "quickstart.yaml"),
        ("recipes/quickstart.yaml", "", "quickstart.yaml"),
        ("qwen_0.5b_lora_24gb", "", "qwen_0.5b_lora_24gb.yaml"),
        ("encyclopedia", "studies", "studies/encyclopedia.yaml"),
        ("encyclopedia", "warmup", "warmup/encyclopedia.yaml"),
        ("studies/encyclopedia.yaml", "studies", "studies/encyclopedia.yaml"),
        ("recipes/studies/encyclopedia", "studies", "studies/encyclopedia.yaml"),
        ("quickstart", "warmup", "quickstart.yaml"),
        ("zero3", "accelerate", "accelerate/zero3.yaml"),
    ],
)
def test_names(name, kind, found):
    assert find_recipe(name, kind).samefile(RECIPES / found)


def test_every_folder_of_recipes_is_some_commands():
    assert {name.rpartition("/")[0] for name in packaged_recipes()} == _COMMANDS.keys()


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("encyclopedia", "", "studies/encyclopedia is one for dro-trl compare --config"),
        ("recipes/encyclopedia.yaml", "", "warmup/encyclopedia is one for dro-trl warmup selector|generator --config"),
        ("wikimultihop", "studies", "runs/wikimultihop is one for dro-trl run"),
        ("zero3", "", "accelerate/zero3 is one for accelerate launch --config_file"),
    ],
)
def test_a_recipe_of_another_command_is_named_with_it(name, kind, said):
    with pytest.raises(FileNotFoundError) as caught:
        find_recipe(name, kind)
    assert said in str(caught.value)
    assert caught.value.filename == name


@pytest.mark.parametrize(
    "command", [["train", "--config"], ["run"], ["compare", "--config"], ["estimate", "--config"]]
)
def test_commands_say_so_in_one_line(command):
    result = CliRunner().invoke(app, [*command, "zero3"])
    assert result.exit_code == 2
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("error: zero3: No such file or directory, and no recipe of that name; accelerate/zero3")


def test_a_file_here_comes_first(elsewhere):
    (elsewhere / "quickstart").mkdir()  # As `dro-trl quickstart` leaves it.
    assert find_recipe("quickstart").samefile(RECIPES / "quickstart.yaml")
    (elsewhere / "quickstart.yaml").write_text("seed: 1\n")
    assert find_recipe("quickstart") == find_recipe("quickstart.yaml") == Path("quickstart.yaml")
    assert find_recipe("recipes/quickstart").samefile(RECIPES / "quickstart.yaml")
    (elsewhere / "recipes").mkdir()
    (elsewhere / "recipes" / "quickstart.yaml").write_text("seed: 2\n")
    assert find_recipe("recipes/quickstart") == Path("recipes/quickstart.yaml")
    (elsewhere / "mine").write_text("seed: 3\n")
    assert find_recipe("mine") == Path("mine")
    assert find_recipe("/dev/null") == Path("/dev/null")  # A pipe such as `<(…)` is no ordinary file either.


def test_each_command_looks_among_its_own_recipes(elsewhere):
    script, args, _ = parse_recipe(["--config", "wikimultihop_gemma_270m_lora"])
    assert (script.dataset_name, args.output_dir) == ("data/train.top20.jsonl", "runs/wikimultihop")
    _, args, _ = parse_warmup(["--config=encyclopedia", *WITH_MODEL])
    assert type(args).__name__ == "WarmupConfig"
    study = parse_study(["--config", "encyclopedia", *WITH_MODEL])
    assert list(study.methods) == ["dro", "grpo", "rloo", "reinforce", "ppo"]
    assert str(study.output_dir) == "runs/encyclopedia"
    backend, _ = read_backend(Path("zero2"), gpu=True)
    assert (backend.name, backend.processes) == ("ZeRO-2", 8)


def test_a_run_by_its_name_reads_the_training_recipe_and_the_accelerate_config_that_it_names(elsewhere):
    from dro_trl.scripts.run import typer

    commands = typer.main.get_command(app).commands
    for name in (
        *(f"{source}_{part}_sample" for source in ("hotpotqa", "2wikimultihopqa") for part in ("train", "dev")),
        "wiki_pool_corpus",
    ):
        (elsewhere / "data").mkdir(exist_ok=True)
        (elsewhere / "data" / f"{name}.jsonl").touch()
    (elsewhere / "models" / "gemma-3-270m").mkdir(parents=True)
    train = next(stage for stage in plan_run(Path("wikimultihop"), commands) if stage.name == "train")
    assert (train.recipe["lora_r"], train.recipe["seed"]) == (16, 0)
    assert train.folder == Path("runs/wikimultihop/5-train")
    own = {"output_dir": "out", "train": {"recipe": "quickstart", "dataset_name": "data/wiki_pool_corpus.jsonl"}}
    own["train"] |= {"model_name_or_path": "models/gemma-3-270m", "launch": {"config_file": "cpu_2proc"}}
    (elsewhere / "own.yaml").write_text(yaml.safe_dump(own))
    [train] = plan_run(Path("own"), commands)
    assert Path(train.launch[1]).samefile(RECIPES / "accelerate" / "cpu_2proc.yaml")
    assert train.recipe["num_selections"] == 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["train", "--config", "wikimultihop"],
            "wikimultihop: No such file or directory, and no recipe of that name; ",
        ),
        (["train", "--config", "wikimultihop"], "; did you mean 'wikimultihop_gemma_270m_lora'"),
        (["train", "--config", "runs/quickstrat.yaml"], "did you mean 'quickstart'"),
        (["warmup", "selector", "--config", "encyclopaedia"], "did you mean 'encyclopedia'?"),
        (["compare", "--config", "natural_question"], "did you mean 'natural_questions'"),
        (["run", "wiki"], "did you mean 'wikimultihop'?"),
        (["run", "x"], "these are wikimultihop"),
        (["recipes", "accelerate/zero4"], "error: accelerate/zero4: No such file"),
        (
            ["estimate", "--config", "quickstart", *WITH_MODEL, "--accelerate_config", "zero"],
            "did you mean 'zero1' or",
        ),
    ],
)
def test_an_unknown_name_gets_the_nearest_in_one_line(arguments, message):
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_the_path_of_a_recipe_is_a_command_away():
    path = Path(CliRunner().invoke(app, ["recipes", "accelerate/multi_gpu"]).stdout.strip())
    assert path.is_absolute()
    assert path.samefile(RECIPES / "accelerate" / "multi_gpu.yaml")
    assert json.dumps(yaml.safe_load(path.read_text()))
