"""Recipes: what they may say, what they may not, and what comes of them."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import Dataset, IterableDataset
from trl import get_peft_config
from typer.testing import CliRunner

from dro_trl import AnswerLogLikelihood, DROConfig
from dro_trl.cli import quickstart
from dro_trl.cli.app import app
from dro_trl.recipes import building
from dro_trl.recipes.arguments import parse_recipe
from dro_trl.recipes.building import load_reward
from dro_trl.recipes.training import run_recipe
from tests.helpers.tiny_models import tiny_questions
from tests.helpers.training import save_start, write_recipe


def test_a_recipe_fills_all_three_parts_and_the_command_line_overrides_it(tmp_path):
    path = write_recipe(
        tmp_path,
        learning_rate=0.01,
        policy_kwargs={"retriever_prior": 0.5},
        reward_funcs=["dro_trl.token_f1_reward"],
        use_peft=True,
        lora_r=4,
        max_train_samples=3,
    )
    script, args, model = parse_recipe(
        ["--config", path, "--num_selections", "5", "--learning-rate=0.02", "--no_train_generator"]
    )
    assert (script.dataset_name, script.max_train_samples) == (str(tmp_path / "train.jsonl"), 3)
    assert script.reward_funcs == ["dro_trl.token_f1_reward"]
    assert isinstance(args, DROConfig)
    assert (args.num_selected, args.num_selections, args.learning_rate) == (2, 5, 0.02)
    assert (args.train_selector, args.train_generator) == (True, False)
    assert args.policy_kwargs == {"retriever_prior": 0.5}
    assert (model.use_peft, model.lora_r) == (True, 4)
    again, _, _ = parse_recipe([f"--config={path}"])
    assert again.dataset_name == script.dataset_name


def test_numbers_in_scientific_notation_are_numbers(tmp_path):
    """YAML reads `3e-4` as text."""
    path = write_recipe(tmp_path)
    with open(path, "a") as file:
        file.write("learning_rate: 3e-4\nreward_weights: [1e-1, 2]\n")
    _, args, _ = parse_recipe(["--config", path])
    assert args.learning_rate == 3e-4
    assert args.reward_weights == [0.1, 2]


@pytest.mark.parametrize(
    ("lines", "arguments", "message"),
    [
        ({"num_selection": 3}, [], r"recipe.yaml: unknown key 'num_selection'; did you mean 'num_selections'\?"),
        ({"learning_rates": 1}, [], "did you mean 'learning_rate'"),
        ({"dataset_config": "nq"}, [], "recipe.yaml: unknown key 'dataset_config'"),
        (
            {},
            ["--num_selecteds", "3"],
            r"the command line: unknown key 'num_selecteds'; did you mean 'num_selected'\?",
        ),
        ({}, ["--warmup=3"], "the command line: unknown key 'warmup'"),
        (
            {"model_name_or_path": None},
            [],
            "model_name_or_path is not set; add it to the recipe, or pass --model_name",
        ),
        ({"dataset_name": None}, [], "dataset_name is not set"),
        ({"num_selected": 0}, [], "recipe.yaml: num_selected=0 must be a whole number of at least 1"),
        ({"learning_rate": "fast"}, [], r"^\S*recipe.yaml: learning_rate='fast' must be a number of at least 0$"),
        ({}, ["--chat", "maybe"], r"^the command line: chat='maybe' must be one of 'auto', 'true', 'false'$"),
        ({}, ["--learning_rate"], "the command line: --learning_rate has no value; write --learning_rate VALUE"),
        (
            {"save_strategy": "often"},
            [],
            "recipe.yaml: save_strategy='often' must be one of 'no', 'steps', 'epoch', 'best'",
        ),
        ({"report_to": "nosuch"}, [], "recipe.yaml: report_to='nosuch': nosuch is not supported, only "),
        ({"optim_args": "x"}, [], "recipe.yaml: optim='adamw_torch[a-z_]*', optim_args='x': not enough values"),
        (
            {"lr_scheduler_type": "cosine_with_min_lr"},
            [],
            "recipe.yaml: lr_scheduler_type='cosine_with_min_lr': One of min_lr ",
        ),
        ({"accelerator_config": {"a": 1}}, [], "recipe.yaml: accelerator_config={'a': 1}: .*unexpected keyword"),
        (
            {"load_in_4bit": True, "load_in_8bit": True},
            [],
            "recipe.yaml: load_in_4bit=True, load_in_8bit=True: You can't use 8 bit and 4 bit precision at the same",
        ),
        ({"use_peft": True, "lora_task_type": "SEQ_CLS"}, [], "recipe.yaml: peft_config.task_type=.* cannot be used"),
        ({"torch_compile": True, "torch_compile_backend": "x"}, [], "torch_compile_backend='x': Invalid backend"),
        ({"dataloader_prefetch_factor": 2}, [], "dataloader_prefetch_factor=2: --dataloader_prefetch_factor can only"),
        ({"save_strategy": "best"}, [], "recipe.yaml: save_strategy='best' does not say by what"),
        ({"env": {"A=": 1}}, [], "recipe.yaml: env: 'A=' is no name of an environment variable"),
        ({"lr_scheduler_type": "x"}, [], "recipe.yaml: lr_scheduler_type='x' must be one of 'linear', "),
    ],
)
def test_what_a_recipe_may_not_say(tmp_path, lines, arguments, message):
    with pytest.raises(ValueError, match=message):
        parse_recipe(["--config", write_recipe(tmp_path, **lines), *arguments])


def test_one_value_where_several_may_stand_is_a_list_of_it(tmp_path):
    lines = {"reward_funcs": "dro_trl.token_f1_reward", "reward_weights": 2, "lora_target_modules": "all-linear"}
    script, args, model = parse_recipe(["--config", write_recipe(tmp_path, **lines)])
    assert (script.reward_funcs, args.reward_weights) == (["dro_trl.token_f1_reward"], [2])
    assert model.lora_target_modules == "all-linear"


def test_a_recipe_that_is_none(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.yaml"):
        parse_recipe(["--config", str(tmp_path / "nowhere.yaml")])
    for arguments in (["--config"], ["--config", "--num_selected", "2"]):
        with pytest.raises(ValueError, match="--config names no file"):
            parse_recipe(arguments)
    for text, message in (("- a\n- b\n", "must hold `name: value` lines, found list"), ("a: [", "not valid YAML")):
        (tmp_path / "bad.yaml").write_text(text)
        with pytest.raises(ValueError, match=message):
            parse_recipe(["--config", str(tmp_path / "bad.yaml")])


def test_rewards_by_their_dotted_path(tmp_path):
    args = DROConfig(str(tmp_path), use_cpu=True, likelihood_aliases="best", likelihood_reduction="mean")
    assert load_reward("dro_trl.token_f1_reward", args)(generated_answers=["Ada"], answers=[["Ada"]]) == [1.0]
    likelihood = load_reward("dro_trl.AnswerLogLikelihood", args)
    assert isinstance(likelihood, AnswerLogLikelihood)
    assert (likelihood.reduction, likelihood.aliases) == ("mean", "best")
    for path in ("dro_trl.no_such_reward", "no_such_module.reward", "token_f1_reward"):
        with pytest.raises(ValueError, match=f"reward_funcs: '{path}' is not the dotted path .* beside the recipe"):
            load_reward(path, args)


REWARD = """
def prefer_late(selections, **kwargs):
    return [float(sum(selection)) for selection in selections]
"""


ROOT = Path(__file__).resolve().parents[2]
UPPER_HALF = set(range(9, 18))


@pytest.fixture(scope="module")
def tiny_gemma(tmp_path_factory):
    """A Gemma 3 with as many layers as the one of 270M parameters."""
    layers = ["sliding_attention", "full_attention"] * 9
    return save_start(tmp_path_factory.mktemp("gemma"), "gemma3", num_hidden_layers=18, layer_types=layers)


def adapted_layers(model):
    trained = (name for name, parameter in model.named_parameters() if parameter.requires_grad and ".layers." in name)
    return {int(re.search(r"layers\.(\d+)\.", name)[1]) for name in trained}


RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
ON_A_LAPTOP = {
    "natural_questions_gemma_270m_lora.yaml",
    "quickstart.yaml",
    "wikimultihop_gemma_270m_lora.yaml",
}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_every_recipe_runs(path, tiny_gemma, tmp_path):
    """Its own launch command on the first line, with a tiny model and four rows."""
    command = path.read_text(encoding="utf-8").splitlines()[0]
    on_a_laptop = path.name in ON_A_LAPTOP
    if on_a_laptop:
        assert command.startswith(f"# dro-trl train --config recipes/{path.name}")
    else:
        assert command.startswith("# accelerate launch --config_file recipes/accelerate/")
        assert command.endswith(f"-m dro_trl train --config recipes/{path.name}")
        assert (ROOT / command.split()[4]).is_file()
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in tiny_questions(5, 6, 5, 6)))
    given = {
        "model_name_or_path": tiny_gemma,
        "dataset_name": tmp_path / "train.jsonl",
        "output_dir": tmp_path / "out",
    }
    options = [part for name, value in given.items() for part in (f"--{name}", str(value))]
    trainer = run_recipe(*parse_recipe(["--config", str(path), *options, "--use_cpu"]))
    questions_of_a_step = trainer.args.per_device_train_batch_size * trainer.args.gradient_accumulation_steps
    assert trainer.state.global_step == -(-4 // questions_of_a_step) * trainer.args.num_train_epochs
    trained = UPPER_HALF if on_a_laptop else set(range(18))
    assert adapted_layers(trainer.model.selector) == trained
    assert adapted_layers(trainer.model.generator) == (trained if trainer.args.train_generator else set())


@pytest.mark.parametrize(
    "path", [path for path in RECIPES if path.name not in ON_A_LAPTOP], ids=lambda path: path.name
)
def test_a_recipe_says_what_is_expected_of_it(path, tmp_path):
    """The figures in its opening lines are those of the command beside them."""
    lines = [line.removeprefix("#").strip() for line in path.read_text(encoding="utf-8").splitlines()]
    assert any(line.startswith("Tested on: not run yet on ") for line in lines)
    command = next(line for line in lines if line.startswith("dro-trl estimate "))
    said = re.search(r": ([\d.]+) GiB.*, ([\d.]+) s a step, ([\d.]+) h\.", " ".join(lines))
    output = tmp_path / "estimate.json"
    result = CliRunner().invoke(app, [*shlex.split(command)[1:], "--output", str(output)])
    assert result.exit_code == 0, result.output
    found = json.loads(output.read_text())
    expected = found["memory"]["peak"] / 2**30, found["time"]["seconds_of_a_step"], found["time"]["seconds"] / 3600
    assert [f"{value:.1f}" for value in expected] == list(said.groups())


def test_the_quickstart_trains_by_its_recipe(tiny_gemma, tmp_path):
    rows = Dataset.from_list(tiny_questions(5, 6))
    trainer = quickstart.make_trainer(tiny_gemma, rows, tmp_path, seed=0)
    options = ["--model_name_or_path", tiny_gemma, "--output_dir", str(tmp_path)]
    _, args, model = parse_recipe(["--config", str(ROOT / "recipes" / "quickstart.yaml"), *options])
    args.model_init_kwargs = {"dtype": model.dtype}
    args.decide_dtype(adapters=model.use_peft)
    assert trainer.args.to_dict() == args.to_dict()
    made, said = trainer.model.selector.peft_config["default"], get_peft_config(model)
    for name in ("r", "lora_alpha", "lora_dropout", "target_modules", "bias", "task_type", "use_rslora"):
        assert getattr(made, name) == getattr(said, name), name


@pytest.mark.parametrize("place", ["recipe", "here"])
def test_a_reward_in_a_file_of_ones_own(tmp_path, place):
    """Beside the recipe, or in the working directory, which a console script does not look in (`python -P`)."""
    for name in ("recipe", "here"):
        (tmp_path / name).mkdir()
    (tmp_path / place / "rewards_of_mine.py").write_text(REWARD)
    path = write_recipe(tmp_path / "recipe", reward_funcs=["rewards_of_mine.prefer_late"])
    program = (
        "from dro_trl.recipes.arguments import parse_recipe; from dro_trl.recipes.building import load_reward\n"
        f"script, args, _ = parse_recipe(['--config', {path!r}])\n"
        "print(load_reward(script.reward_funcs[0], args)([[2, 1]]))\n"
    )
    command = [sys.executable, "-P", "-c", program]
    done = subprocess.run(command, cwd=tmp_path / "here", capture_output=True, text=True)
    assert done.stdout == "[3.0]\n", done.stderr


def test_running_a_recipe(tmp_path):
    """A reward of the user's own, LoRA, another policy and an evaluation, then one more epoch from the checkpoint."""
    (tmp_path / "my_rewards.py").write_text(REWARD)
    save_start(tmp_path / "start")
    path = write_recipe(
        tmp_path,
        reward_funcs=["my_rewards.prefer_late", "dro_trl.AnswerLogLikelihood"],
        reward_weights=[2.0, 0.5],
        policy="dro_trl.AutoregressivePolicy",
        use_peft=True,
        lora_target_modules=["q_proj", "v_proj"],
        model_init_kwargs={"attn_implementation": "eager"},
        eval_dataset_name=str(tmp_path / "train.jsonl"),
        eval_strategy="epoch",
        save_strategy="epoch",
        max_train_samples=2,
        disable_tqdm=True,
    )
    trainer = run_recipe(*parse_recipe(["--config", path]))
    assert len(trainer.train_dataset) == 2
    assert len(trainer.eval_dataset) == 4
    assert type(trainer.model.policy).__name__ == "AutoregressivePolicy"
    assert trainer.model.selector.config._attn_implementation == "eager"
    assert {p.dtype for p in trainer.model.parameters()} == {trainer.model.selector.dtype}
    results = json.loads((tmp_path / "out" / "train_results.json").read_text())
    assert results["steps"] == 1 == len([r for r in trainer.state.log_history if "eval_reward" in r])
    assert results["reward"] == pytest.approx(
        2 * results["rewards/prefer_late"] + 0.5 * results["rewards/answer_log_likelihood"], abs=1e-4
    )
    made = {entry.name for entry in (tmp_path / "out").iterdir()}
    assert made >= {"selector", "generator", "dro_config.json", "README.md", "training.png", "trainer_state.json"}
    resumed = run_recipe(*parse_recipe(["--config", path, "--resume", "--num_train_epochs", "2"]))
    assert [r["step"] for r in resumed.state.log_history if "eval_reward" in r] == [1, 2]


@pytest.mark.parametrize(("most", "taken"), [(3, 3), (None, 4), (50, 4)], ids=["looked at", "run", "more than a run"])
def test_of_a_stream_no_more_is_fetched_than_is_wanted(tmp_path, monkeypatch, most, taken):
    """Two steps of two questions."""
    fetched = []

    def rows():
        for row in tiny_questions(*[4] * 20):
            fetched.append(row["question"])
            yield row

    monkeypatch.setattr(building, "stream_rag_dataset", lambda *_: IterableDataset.from_generator(rows))
    save_start(tmp_path / "start")
    recipe = write_recipe(tmp_path, dataset_name="org/data", dataset_streaming=True, max_steps=2)
    script, args, _ = parse_recipe(["--config", recipe])
    train, _ = building.load_datasets(script, args, most)
    assert len(train) == taken
    assert taken <= len(fetched) < 20
