"""The installed package: its public names, its metadata, and what it costs to import."""

import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import dro_trl

REPOSITORY = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
HEAVY = {"torch", "transformers", "trl", "peft", "datasets", "numpy", "scipy", "matplotlib", "pandas", "pyserini"}


def modules_after(code: str) -> set[str]:
    """Return the names in `sys.modules` of a fresh process that ran `code`."""
    script = f"import json, sys\ntry:\n    {code}\nexcept SystemExit as stop:\n    assert not stop.code\n"
    script += "print(); print(json.dumps(list(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("name", dro_trl.__all__)
def test_every_public_name_loads(name):
    assert getattr(dro_trl, name) is not None


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="NoSuchTrainer"):
        _ = dro_trl.NoSuchTrainer


def test_version_is_the_distributions():
    assert dro_trl.__version__ == distribution("dro-trl").version


@pytest.mark.parametrize(
    "code", ["import dro_trl", "import dro_trl.cli.app; sys.argv = ['dro-trl', '--help']; dro_trl.cli.app.main()"]
)
def test_import_and_help_load_nothing_heavy(code):
    loaded = modules_after(code)
    assert "dro_trl" in loaded
    assert not loaded & HEAVY


def pins(name: str) -> dict[str, str]:
    """Return the version of each package in a file of constraints."""
    lines = (REPOSITORY / name).read_text().splitlines()
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in found}


def test_constraints_pin_every_direct_dependency():
    version_of = pins("constraints.txt")
    extras = [line for group in PROJECT["optional-dependencies"].values() for line in group]
    for requirement in map(Requirement, PROJECT["dependencies"] + extras):
        if requirement.name != PROJECT["name"]:
            pinned = version_of[canonicalize_name(requirement.name)]
            assert requirement.specifier.contains(pinned), f"{requirement.name}=={pinned} is outside {requirement}"


def test_the_oldest_constraints_are_the_lower_bounds():
    version_of = pins("constraints-oldest.txt")
    for requirement in map(Requirement, PROJECT["dependencies"]):
        lowest = [bound.version for bound in requirement.specifier if bound.operator == ">="]
        pinned = version_of[canonicalize_name(requirement.name)]
        assert [Version(bound) for bound in lowest] in ([Version(pinned)], []), (
            f"{requirement} is tested with {pinned}"
        )


def test_the_table_of_versions_is_that_of_the_constraints():
    text = (REPOSITORY / "docs" / "compatibility.md").read_text()
    rows = dict(re.findall(r"^\| (\w+) \| (\d\S* \| \d\S*) \|$", text, flags=re.MULTILINE))
    oldest, newest = pins("constraints-oldest.txt"), pins("constraints.txt")
    assert rows.keys() >= {"torch", "transformers", "trl", "peft", "accelerate", "datasets"}
    for name, row in rows.items():
        assert row.split(" | ") == [versions[canonicalize_name(name)] for versions in (oldest, newest)], name
