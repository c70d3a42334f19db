"""Help, completion and the documentation's pages: every option occurs, and none is cut off at 80 columns."""

import inspect
import os
import re
import shlex
import subprocess
import sys
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from dro_trl.cli import reference
from dro_trl.cli.app import GROUPS, app
from dro_trl.cli.listing import Entry
from dro_trl.recipes.option_groups import FURTHER
from dro_trl.recipes.option_groups import GROUPS as OPTION_GROUPS
from dro_trl.recipes.options import TRAIN, WARMUP

PROGRAM = typer.main.get_command(app)
COMMANDS = PROGRAM.commands
OF_RECIPES = {"train": TRAIN.options, "estimate": TRAIN.options, "warmup": WARMUP.options}


def help_of(name, *options, **environment):
    result = CliRunner().invoke(app, [name, *options], env={"COLUMNS": "80", **environment}, prog_name="dro-trl")
    assert (result.exit_code, result.stderr) == (0, "")
    return result.stdout


def entries(name):
    command = COMMANDS[name]
    return command.entries(command.context_class(command, info_name=name))


def shown(text):
    """Return the names of the options that a help lists, each at the beginning of its line."""
    found = set()
    for title in re.findall(r"^  (--?\S+(?:(?<=,) --?\w+)*)", text, re.MULTILINE):
        for name in title.split(", "):
            found |= {name.replace("[no_]", ""), name.replace("[no_]", "no_")}
    return found


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_in_the_help_and_fits(name):
    command = COMMANDS[name]
    text = help_of(name, "--help")
    assert max(map(len, text.splitlines())) <= 80
    own = {n for p in command.params if p.param_type_name == "option" for n in (*p.opts, *p.secondary_opts)}
    assert own <= shown(text)
    assert text.startswith(f"Usage: dro-trl {name}")
    assert "Examples\n  " in text
    assert "error" not in text
    for group in entries(name).values():
        for entry in group:
            assert entry.sentence[0] != ".", f"{entry.title} has no help"
            assert "\n" not in entry.sentence


@pytest.mark.parametrize("name", OF_RECIPES)
def test_every_line_of_a_recipe_is_in_help_all_and_those_asked_for_in_help(name):
    options = {f"--{option}" for option in OF_RECIPES[name]} - {"--env"}
    everything, usual = help_of(name, "--help-all"), help_of(name, "--help")
    assert options <= shown(everything)
    assert help_of(name, "--help_all") == everything
    further = {f"--{entry.names[0][2:]}" for entry in entries(name)[FURTHER]}
    assert shown(usual) & further == set()
    assert options - further <= shown(usual)
    assert f"{len(further)} further options of transformers' Trainer: --help-all" in usual
    assert not any(len(line) > 80 for line in everything.splitlines())


def test_a_study_has_the_lines_of_recipes_and_its_own():
    from dro_trl.recipes.studies.parsing import PER_ROW
    from dro_trl.recipes.studies.plan import Study

    own = {f.name for f in fields(Study)} - {"recipe"}
    expected = {f"--{option}" for option in (own | TRAIN.options.keys()) - PER_ROW.keys() - {"env"}}
    assert expected <= shown(help_of("compare", "--help-all"))


def test_options_of_this_package_are_in_a_group_of_their_own():
    """Only what transformers and TRL bring may be among the further ones."""
    from transformers import TrainingArguments
    from trl import ScriptArguments, SFTConfig

    libraries = {f.name for part in (TrainingArguments, ScriptArguments, SFTConfig) for f in fields(part)}
    names = [name for names in OPTION_GROUPS.values() for name in names.split()]
    assert len(names) == len(set(names))
    assert (TRAIN.options.keys() | WARMUP.options.keys()) - {"env"} - {*names} <= libraries


def test_a_default_and_a_sentence_are_those_of_the_field():
    text = help_of("train", "--help")
    assert "  --num_selections INT (default: 8)\n      M, the number of selections drawn for a question.\n" in text
    assert f"  --loss_type {'|'.join(TRAIN.options['loss_type'].choices)}" in text
    assert "  --lr_scheduler_type linear|cosine|… (default: linear)\n" in text
    assert "  --[no_]bf16\n" in text  # A recipe that says nothing leaves it to the device.
    assert help_of("retrieve", "--help").count("  --num_candidates, -k INT (default: 20)\n") == 1


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("One. Two.", "One."),
        ("Seed of it; none", "Seed of it; none."),
        ("Or not (Dr. GRPO). More.", "Or not (Dr. GRPO)."),
        ("Over tokens: 'sum' or 'mean'.", "Over tokens."),
        ("Weight of KL(a): in the loss. More.", "Weight of KL(a): in the loss."),
        ("A name, e.g. Qwen. More", "A name, e.g. Qwen."),
        ("cpu, cuda:1, …", "cpu, cuda:1, …"),
    ],
)
def test_the_first_sentence(text, sentence):
    assert Entry(("--a",), "", "", text).sentence == sentence


def test_the_list_of_commands_has_all_of_them():
    assert sorted(" ".join(GROUPS.values()).split()) == sorted(COMMANDS)
    result = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "80"}, prog_name="dro-trl")
    assert all(re.search(rf"^  {name} +\w", result.stdout, re.MULTILINE) for name in COMMANDS)
    assert max(map(len, result.stdout.splitlines())) <= 80


@pytest.mark.parametrize("name", COMMANDS)
def test_the_examples_are_commands(name):
    lines = COMMANDS[name].epilog.splitlines()
    assert lines
    for line in lines:
        words = shlex.split(line)
        arguments = words[words.index("dro-trl" if "dro-trl" in words else "dro_trl") + 1 :]
        assert arguments[0] == name
        context = COMMANDS[name].make_context(name, arguments[1:])
        rest = {word[2:] for word in context.args if word.startswith("--")}
        assert rest - {"config"} <= {n.removeprefix("--") for e in sum(entries(name).values(), []) for n in e.names}


def test_help_is_there_at_once_without_torch():
    program = (
        "import sys, atexit; atexit.register(lambda: print({'torch', 'transformers', 'trl'} & set(sys.modules)));"
        "from dro_trl.cli.app import main; sys.argv = ['dro-trl', 'train', '--help-all']; main()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "set()"


def completions(*words):
    environment = {
        **os.environ,
        "_DRO_TRL_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(words),
        "COMP_CWORD": str(len(words) - 1),
    }
    command = [sys.executable, "-c", "from dro_trl.cli.app import main; main()"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    return done.stdout.split()


def test_the_shell_completes_commands_options_and_lines_of_recipes():
    assert completions("dro-trl", "ev") == ["evaluate"]
    assert completions("dro-trl", "evaluate", "--max_new") == ["--max_new_tokens"]
    assert completions("dro-trl", "train", "--num_selec") == [
        *("--num_selections", "--num_selected", "--num_selections_to_print"),
    ]


def test_the_pages_of_the_documentation_have_every_option():
    page = reference.commands_page(PROGRAM)
    for name, command in COMMANDS.items():
        section = page.partition(f"## {name}\n")[2].partition("\n## ")[0]
        assert command.epilog in section
        for parameter in command.params:
            if not getattr(parameter, "hidden", False):
                title = (
                    parameter.opts[0] if parameter.param_type_name == "option" else parameter.metavar or parameter.name
                )
                assert re.search(
                    rf"^\| `(--)?(\[no_\])?{re.escape(title.lstrip('-').replace('|', chr(92) + '|'))}",
                    section,
                    re.I | re.MULTILINE,
                )
    options = reference.options_page(PROGRAM)
    named = set(re.findall(r"^\| `--(?:\[no_\])?(\w+)`", options, re.MULTILINE))
    assert (TRAIN.options.keys() | WARMUP.options.keys()) - {"env"} <= named
    assert len(re.findall(r"^\| `", options, re.MULTILINE)) == len(named)  # Each once.


def test_the_hook_fills_the_pages():
    import importlib.util

    folder = Path(__file__).resolve().parents[2] / "docs"
    spec = importlib.util.spec_from_file_location("command_pages", folder / "command_pages.py")
    hook = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hook)
    pages = [(folder / name).read_text(encoding="utf-8") for name in ("commands.md", "recipe_options.md")]
    made = "".join(hook.on_page_markdown(page, page=None) for page in pages)
    assert "<!-- made" not in made
    assert made.count("## train") == made.count("## Data") == 1
    assert made.count("| retrieve | `--k` | `--num_candidates` |") == 1


def test_env_says_the_versions_and_nothing_of_the_user(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    result = CliRunner().invoke(app, ["env"])
    assert result.exit_code == 0
    for line in (f"- torch: {version('torch')}", f"- transformers: {version('transformers')}", "- Java: openjdk"):
        assert line in result.stdout
    assert re.search(r"^- models run: on (the CPU|\w+:\d)", result.stdout, re.MULTILINE)
    assert not any(word in result.stdout for word in ("hf_secret", str(Path.home()), os.sep + "lib"))


def test_what_options_are_called_is_documented_by_their_functions():
    """A parameter without a text of help would be a blank line in the help."""
    for name, command in COMMANDS.items():
        for parameter in command.params:
            assert getattr(parameter, "hidden", False) or parameter.help, f"{name}: {parameter.name}"
    assert all(inspect.getdoc(command.callback) for command in COMMANDS.values())
