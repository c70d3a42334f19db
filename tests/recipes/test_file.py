"""Recipes by their names: those that come with the package are found from any folder, behind one's own files."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from dro_trl.cli.app import app
from dro_trl.options.yaml_text import dump_recipe, read_yaml
from dro_trl.recipes.arguments import parse_recipe
from dro_trl.recipes.estimates.estimate import read_backend
from dro_trl.recipes.file import _COMMANDS, find_recipe, packaged_recipes, read_recipe
from dro_trl.recipes.runs.plan import plan_run
from dro_trl.recipes.studies.parsing import parse_study
from dro_trl.recipes.warmup import parse_warmup

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
WITH_MODEL = ["--model_name_or_path", "models/mine"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Another working directory than the checkout."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_recipe_has_a_name():
    names = {path.relative_to(RECIPES).as_posix().removesuffix(".yaml") for path in RECIPES.rglob("*.yaml")}
    assert packaged_recipes().keys() == names
    assert {"quickstart", "runs/2wikimultihopqa", "accelerate/zero3"} < names
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
        ("musique", "studies", "runs/musique is one for dro-trl run --config"),
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
    from dro_trl.cli.run import typer

    commands = typer.main.get_command(app).commands
    (elsewhere / "data").mkdir()
    (elsewhere / "data" / "rows.jsonl").touch()
    (elsewhere / "models" / "gemma-3-270m").mkdir(parents=True)
    train = next(stage for stage in plan_run(Path("musique"), commands) if stage.name == "train")
    assert (train.recipe["lora_r"], train.recipe["seed"]) == (16, 0)
    assert train.folder == Path("runs/wikipedia/musique/5-train")
    own = {"output_dir": "out", "train": {"recipe": "quickstart", "dataset_name": "data/rows.jsonl"}}
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
        (["run", "--config", "musiq"], "did you mean 'musique'"),
        (
            ["run", "--config", "x"],
            "these are 2wikimultihopqa, hotpotqa, musique, natural_questions, wizard",
        ),
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


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("010", 10),
        ("-007", -7),
        ("0x1F", 31),
        ("0o17", 15),
        ("1e-5", 1e-5),
        ("1E3", 1000.0),
        (".5", 0.5),
        ("1:30", "1:30"),
        ("1_000", "1_000"),
        ("2024-01-01", "2024-01-01"),
        ("no", "no"),
        ("True", True),
        ("~", None),
        ("{<<: {x: 1, y: 2}, x: 3}", {"x": 3, "y": 2}),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text, value):
    assert read_yaml(text, "f") == value
    assert type(read_yaml(text, "f")) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "f, line 3: not valid YAML: the key 'a' is there twice, first in line 1; take"),
        ("a:\n  b: {c: 1, c: 2}", "f, line 2: .*the key 'c' is there twice"),
        ("a: .nan", "f: a: nan is not a finite number"),
        ("a: [{b: -.inf}]", r"f: a\[0\]: b: -inf is not a finite number"),
        ("a: 1e999", "f: a: inf is not a finite number"),
        ("a: 1" + "0" * 30, "f: a: a number of more than 64 bits"),
        ("a: 1" + "0" * 5000, "f: not valid YAML: Exceeds the limit"),
        ('a: "\\uD800"', "f: a: .* holds a NUL, or half of a surrogate pair"),
        ('a: "\\0"', "f: a: .* holds a NUL"),
        ("a: &x [*x]", r"f: a\[0\]: a list or mapping holds itself"),
        ("a: " + "[" * 3000, "f: .*nested too deeply"),
        ("a: !!timestamp x", "f: not valid YAML"),
        ("a: !!python/object:os.system x", "f: not valid YAML: could not determine a constructor"),
        ("a: !!set {x}", "f: a: .* is a set"),
        ("{true: 1}", "f: the key True must be text"),
        ("a: 1\n---\nb: 2", "f, line 2: not valid YAML: but found another document"),
        ("a: 'x'\x07", "f: not valid YAML: unacceptable character"),
    ],
)
def test_yaml_that_is_none(text, message):
    with pytest.raises(ValueError, match=f"^{message}") as error:
        read_yaml(text, "f")
    assert "\n" not in str(error.value)


def test_what_is_written_is_read_as_it_was(elsewhere):
    texts = [
        "010",
        "1e-5",
        "yes",
        "no",
        "1:30",
        "true",
        "~",
        "",
        "2024-01-01",
        "0o7",
        "0x1",
        ".5",
        "<<",
        "=",
        "1_0",
        ".nan",
    ]
    recipe = {"a": texts, "b": [1e-5, 1e22, 10, True, None], "c": {"é": "x\ny"}}
    (elsewhere / "r.yaml").write_text(dump_recipe(recipe), encoding="utf-8")
    assert read_recipe(elsewhere / "r.yaml") == recipe


def test_aliases_of_aliases_take_no_time():
    lines = ["a: &a [x,x,x,x,x,x,x,x,x,x]"]
    lines += [f"{chr(98 + i)}: &{chr(98 + i)} [{','.join([f'*{chr(97 + i)}'] * 10)}]" for i in range(12)]
    assert len(read_yaml("\n".join(lines), "f")) == 13


def test_a_file_that_is_no_text(elsewhere):
    (elsewhere / "r.yaml").write_bytes(b"a: \xff\n")
    with pytest.raises(ValueError, match=r"^r.yaml is not text in UTF-8 \(byte 3: .*\); save it as UTF-8"):
        read_recipe(Path("r.yaml"))
    (elsewhere / "r.yaml").write_bytes(b"\xef\xbb\xbfa: 1\r\n")
    assert read_recipe(Path("r.yaml")) == {"a": 1}
    (elsewhere / "r.yaml").write_text("# nothing\n")
    with pytest.raises(ValueError, match=r"^r.yaml must hold `name: value` lines, found nothing"):
        read_recipe(Path("r.yaml"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--config", "wrong"], "error: wrong.yaml: kl_coef='x' must be a number of at least 0"),
        (["warmup", "selector", "--config", "wrong"], "error: wrong.yaml: unknown key 'kl_coef'"),
        (["estimate", "--config", "wrong"], "error: wrong.yaml: kl_coef='x' must be"),
        (["train", "--config", "nowhere"], "error: nowhere: No such file"),
        (["train", "--config", "quickstart"], "error: model_name_or_path is not set"),
        (
            ["train", "--config", "quickstart", "--chat_template_kwargs", "{a: 1"],
            "error: the command line: chat_template",
        ),
        (["train", "--config", "quickstart", "--epsilon", "nan"], "error: the command line: epsilon='nan' must be"),
        (["train", "--config", "quickstart", *WITH_MODEL, "--eval_strategy", "epoch"], "has nothing to evaluate on"),
        (["compare", "--config", "study"], "error: study.yaml, method 'a': kl_coef='x' must be"),
        (["run", "--config", "run.yaml"], "error: run.yaml: train: kl_coef='x' must be"),
    ],
)
def test_a_mistake_is_found_before_torch_is_imported(elsewhere, arguments, message):
    (elsewhere / "wrong.yaml").write_text("kl_coef: x\nmodel_name_or_path: m\ndataset_name: d\n")
    study = "model_name_or_path: m\ndataset_name: d\neval_dataset_name: d\noutput_dir: o\nmethods: {a: {kl_coef: x}}\n"
    (elsewhere / "study.yaml").write_text(study)
    run = "output_dir: o\ntrain: {model_name_or_path: m, dataset_name: d, kl_coef: x}\n"
    (elsewhere / "run.yaml").write_text(run)
    program = (
        "import sys\nfrom typer.testing import CliRunner\nfrom dro_trl.cli.app import app\n"
        f"result = CliRunner().invoke(app, {arguments!r})\n"
        "print(result.exit_code, 'torch' in sys.modules, result.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.startswith("2 False error: "), done.stdout + done.stderr
    assert message in done.stdout
    assert len(done.stdout.strip().splitlines()) == 1
