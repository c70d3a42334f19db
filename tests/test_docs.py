"""The documentation against the code: commands parse, links lead somewhere, names exist, quoted messages are real."""

import ast
import importlib
import importlib.util
import re
import shlex
import unicodedata
from dataclasses import fields
from functools import cache
from pathlib import Path

import pytest
import typer
import yaml

import dro_trl
from dro_trl.cli.app import app
from dro_trl.recipes.options import TRAIN, WARMUP
from dro_trl.recipes.runs.plan import KEYS as RUN_KEYS
from dro_trl.recipes.studies.plan import Study
from tests.docs.pages import PAGES, ROOT, code_of, commands_of, tokens

STUDY_KEYS = {field.name for field in fields(Study)} - {"recipe"}
RECIPE_KEYS, WARMUP_KEYS = TRAIN.options.keys(), WARMUP.options.keys()
HOME = ROOT / "docs" / "index.md"
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


# Commands


def command_lines(code):
    """Yield the arguments of each `dro-trl …` and `… -m dro_trl …`."""
    for line in re.sub(r"\\\n\s*", " ", code.text).splitlines():
        for part in line.split("&&"):
            found = re.match(r"(?:.*/)?dro-trl (.+)|.* -m dro_trl (.+)", part.strip())
            if found:
                yield found[1] or found[2]


def check_command(line, complete):
    """Parse a command line as the program would, without running it.

    Args:
        line: Without the program's name; `[…]` around what is optional, in capitals what stands for something.
        complete: Whether no option and no option's value may be missing.
    """
    optional = re.search(r"\[(--[^\]]*)\]", line)
    if optional:
        line = line.replace(optional[0], optional[1])
    words = [word for word in shlex.split(line, comments=True) if word not in ("…", "...", "etc.")]
    program = typer.main.get_command(app)
    while words and words[0] in ("--debug", "--version", "--install-completion"):
        words.pop(0)
    if not words:
        return
    command = program.commands[words[0]]
    try:
        context = command.make_context(words[0], words[1:], parent=program.context_class(program))
    except Exception as error:
        kind = type(error).__name__
        if kind == "Exit" and "--help" in words:
            return
        if kind in ("MissingParameter", "BadOptionUsage") and not complete or kind == "BadParameter" and optional:
            return
        raise AssertionError(f"dro-trl {line}: {kind}: {getattr(error, 'message', error)}") from error
    part, rest = context.params.get("part", "selector"), context.args
    assert part in ("selector", "generator", "selector|generator"), f"dro-trl {line}: BadParameter: {part!r}"
    given = {word[2:].partition("=")[0].replace("-", "_") for word in rest if word.startswith("--")}
    keys = WARMUP_KEYS if words[0] == "warmup" else RECIPE_KEYS
    unknown = given - keys - {f"no_{key}" for key in keys} - {"config"}
    assert not unknown, f"dro-trl {line}: {unknown} are no options"


@each_page
def test_every_command_parses(page):
    for code in code_of(page):
        for line in command_lines(code):
            check_command(line, complete=not code.inline)


@pytest.mark.parametrize(
    "line",
    [
        "index --corpus c.jsonl --index_dir i --thread 3",
        "index --corpus c.jsonl",
        "index --corpus c.jsonl --index_dir i --format pdf",
        "ask one two --model m",
        "train --config recipe.yaml --num_selection 3",
        "train --config recipe.yaml --teacher gold",
        "warmup reader --config recipe.yaml",
        "warmup selector --config recipe.yaml --num_selections 3",
    ],
)
def test_a_wrong_command_is_found(line):
    with pytest.raises(AssertionError, match="NoSuchOption|MissingParameter|BadParameter|UsageError|are no options"):
        check_command(line, complete=True)


# Links and paths


def slug(heading):
    """The anchor that Python-Markdown gives a heading, and GitHub too where nothing is left out between two spaces."""
    plain = unicodedata.normalize("NFKD", heading).encode("ascii", "ignore").decode()
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", plain).strip().lower())


@cache
def anchors(page):
    headings, text = [], page.read_text(encoding="utf-8")
    previous = None
    for token in tokens(page):
        if token.type == "inline" and previous.type == "heading_open":
            headings.append("".join(child.content for child in token.children))
        previous = token
    return {slug(heading) for heading in headings} | set(re.findall(r"^::: (\S+)$", text, re.MULTILINE))


@each_page
def test_every_relative_link_leads_somewhere(page):
    for token in tokens(page):
        if token.type not in ("link_open", "image"):
            continue
        target = token.attrGet("href") or token.attrGet("src")
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.name} links to {target}"
        assert not anchor or anchor in anchors(file), f"{page.name} links to {target}: no such heading"


@each_page
def test_every_path_named_exists(page):
    named = r"(?<![\w./~-])(?:recipes|examples|docs|tests|dro_trl)/[\w./-]*[\w/]"
    for path in set(re.findall(named, page.read_text(encoding="utf-8"))):
        assert (ROOT / path).exists(), f"{page.name} names {path}"


def test_every_page_is_in_the_navigation():
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    groups = [group if isinstance(group, list) else [{"": group}] for entry in nav for group in entry.values()]
    named = [path for group in groups for entry in group for path in entry.values()]
    assert sorted(named) == sorted(page.name for page in PAGES if page.parent.name == "docs")


# The home page


def test_the_home_page_has_the_readmes_two_commands():
    of_home, of_readme = ([c for code in code_of(page) for c in commands_of(code)] for page in (HOME, PAGES[0]))
    assert of_home == of_readme[:2]


def test_the_plot_of_the_home_page_is_the_table_of_the_results():
    table = re.findall(
        r"^\| ([012]) \| (start|trained|trained, retriever order) \| [\d.]+ \| ([\d.]+) \| ([\d.]+) \|",
        (ROOT / "docs" / "results.md").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    systems = ("start", "trained, retriever order", "trained")
    figures = {seed: [of[m] for m in (2, 3) for s in systems for of in table if of[:2] == (seed, s)] for seed in "012"}
    plot = (ROOT / "docs" / "before_after.svg").read_text(encoding="utf-8")
    bars = re.findall(r'<rect class="\w+" x="(\d+)" .*width="([\d.]+)".*<text class="value".*>([\d.]+)</text>', plot)
    dots = [float(x) for x in re.findall(r'<circle class="seed" cx="([\d.]+)"', plot)]
    assert [bar[2] for bar in bars] == figures["0"]
    assert [float(bar[1]) for bar in bars] == [pytest.approx(float(v) * 380, abs=0.06) for v in figures["0"]]
    expected = [216 + 380 * float(value) for pair in zip(figures["1"], figures["2"], strict=True) for value in pair]
    assert dots[: len(expected)] == [pytest.approx(x, abs=0.06) for x in expected]
    [text] = re.findall(r"!\[([^\]]*)\]\(before_after\.svg\)", HOME.read_text(encoding="utf-8"))
    assert re.findall(r"\d\.\d{3}", text) == figures["0"]


# Programs and recipes


@each_page
def test_programs_compile_and_their_imports_exist(page):
    for code in code_of(page):
        if code.language != "python":
            continue
        for node in ast.walk(ast.parse(code.text)):
            if isinstance(node, ast.ImportFrom) and node.module.partition(".")[0] == "dro_trl":
                module = importlib.import_module(node.module)
                for alias in node.names:
                    assert hasattr(module, alias.name), f"{page.name}: {node.module} has no {alias.name}"


@each_page
def test_every_key_of_a_recipe_is_known(page):
    for code in code_of(page):
        if code.language == "yaml":
            keys = set(yaml.safe_load(code.text))
            assert keys <= RECIPE_KEYS | STUDY_KEYS | RUN_KEYS or keys <= WARMUP_KEYS


def test_every_recipe_has_its_row():
    text = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    for recipe in [*(ROOT / "recipes").glob("*.yaml"), *(ROOT / "recipes" / "warmup").glob("*.yaml")]:
        assert f"| `{recipe.relative_to(ROOT)}` |" in text


def test_every_public_name_has_an_entry():
    entries = re.findall(r"^::: dro_trl\.(\w+)$", (ROOT / "docs" / "api.md").read_text("utf-8"), re.MULTILINE)
    assert sorted(entries) == sorted(set(dro_trl.__all__) - {"__version__"})


def test_every_version_has_a_test_or_a_finding():
    page = (ROOT / "docs" / "compatibility.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| .* \| (`(?:tests|findings)/.*) \|$", page, re.MULTILINE)
    assert len(rows) > 20
    for named in re.findall(r"`([^`]+)`", " ".join(rows)):
        path, *names = named.split("::")
        text = (ROOT / path).read_text(encoding="utf-8")
        assert all(re.search(rf"^ *(class|def) {name}\b", text, re.MULTILINE) for name in names), named


# Messages


def messages(source):
    """Return the texts in a Python file, `…` for what is put into them."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr):
            parts = (part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
            found.add("".join(parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.add(re.sub(r"%[ds]|\{[^}]*\}", "…", node.value))
    return {re.sub("(… ?)+…", "…", " ".join(text.split())) for text in found}


@cache
def own_messages():
    files = (ROOT / "dro_trl").rglob("*.py")
    return set().union(*(messages(file.read_text(encoding="utf-8")) for file in files))


QUOTED = [code for code in code_of(ROOT / "docs" / "troubleshooting.md") if code.language.startswith("text")]


@pytest.mark.parametrize("code", QUOTED, ids=lambda code: code.text[:40].strip())
def test_every_quoted_message_stands_in_the_source(code):
    titled = re.search(r'title="(.+?)/(.+)"', code.language)
    if titled:
        [folder] = importlib.util.find_spec(titled[1]).submodule_search_locations
        known = messages((Path(folder) / titled[2]).read_text(encoding="utf-8"))
    else:
        known = own_messages()
    assert any(code.text.strip() in message for message in known)


def test_a_message_that_is_not_there_is_not_found():
    assert len(QUOTED) > 30
    assert not any("found no Java at all" in message for message in own_messages())


USERS_CODE = [*sorted((ROOT / "examples").glob("*.py")), *PAGES]


@pytest.mark.parametrize("path", USERS_CODE, ids=lambda path: path.name)
def test_what_users_copy_imports_from_the_package_alone(path):
    """Modules may move; the names that `dro_trl` itself has stay, and so do the integrations, one a library."""
    imported = re.findall(r"^\s*(?:from|import) (dro_trl[\w.]*)", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert {name for name in imported if not name.startswith("dro_trl.integrations.")} <= {"dro_trl"}
