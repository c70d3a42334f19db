"""What a release rests on: the tag's check, the workflows, the Dockerfile."""

import importlib.util
import re
import shutil
import subprocess
import sys
import tomllib

import pytest
import yaml

from tests.docs.pages import PAGES, ROOT, code_of, commands_of

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
TAG = f"v{PROJECT['project']['version']}"
CHECKED = ("pyproject.toml", "CHANGELOG.md", "CITATION.cff")
spec = importlib.util.spec_from_file_location("check_release", ROOT / ".ci" / "check_release.py")
check_release = importlib.util.module_from_spec(spec)
spec.loader.exec_module(check_release)


@pytest.fixture
def checkout(tmp_path):
    """The files that are checked, the changelog with the heading that a release has."""
    for name in CHECKED:
        shutil.copyfile(ROOT / name, tmp_path / name)
    date = re.search(r"^date-released: (.+)$", (tmp_path / "CITATION.cff").read_text(encoding="utf-8"), re.MULTILINE)[
        1
    ]
    changes = tmp_path / "CHANGELOG.md"
    heading = f"## {TAG[1:]} ({date})"
    changes.write_text(re.sub(r"^## .*", heading, changes.read_text(encoding="utf-8"), count=1, flags=re.MULTILINE))
    return tmp_path


def test_a_tag_of_the_version_has_its_changes(checkout):
    changes = check_release.changes_of(TAG, checkout)
    assert changes.count("\n- ") > 50
    assert "\n## " not in changes


@pytest.mark.parametrize(
    ("name", "pattern", "replacement", "message"),
    [
        ("pyproject.toml", r'^version = ".*"', 'version = "9.1.0"', f"the tag is {TAG}, the version .* 9.1.0"),
        ("CHANGELOG.md", r"^## .*", "## Unreleased", "begins with 'Unreleased'"),
        ("CHANGELOG.md", r"^## .*", f"## {TAG[1:]}0 (2026-01-01)", "begins with"),
        ("CHANGELOG.md", r"^## (.*) \(.*\)", r"## \1 (2025-01-01)", "no line 'date-released: 2025-01-01'"),
        ("CITATION.cff", r"^version: .*", "version: 9.1.0", f"no line 'version: {TAG[1:]}'"),
    ],
)
def test_what_says_another_version_or_day_is_refused(checkout, name, pattern, replacement, message):
    text = (checkout / name).read_text(encoding="utf-8")
    (checkout / name).write_text(re.sub(pattern, replacement, text, count=1, flags=re.MULTILINE))
    with pytest.raises(ValueError, match=message):
        check_release.changes_of(TAG, checkout)


def test_a_wrong_tag_is_one_line():
    done = subprocess.run([sys.executable, ROOT / ".ci" / "check_release.py", "v9"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)


@pytest.mark.parametrize("path", sorted((ROOT / ".github" / "workflows").glob("*.yml")), ids=lambda path: path.name)
def test_workflows_run_what_the_repository_has(path):
    workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    assert workflow[True]  # YAML 1.1 reads the key `on` so.
    assert all(("run" in step) != ("uses" in step) for step in steps)
    for command in [step["run"].split() for step in steps if "run" in step]:
        if command[0] == "make":
            assert set(command[1:]) <= targets
        elif command[0] != "gh":
            assert command[0] in ("bash", "python")
            assert (ROOT / command[1]).is_file()


def instructions(name):
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    return re.findall(rf"^{name} (.+)$", text, re.MULTILINE)


def test_the_image_is_made_by_the_readmes_first_command():
    first = next(command for code in code_of(PAGES[0]) for command in commands_of(code))
    entry, arguments = (yaml.safe_load(instructions(name)[0]) for name in ("ENTRYPOINT", "CMD"))
    assert f"{instructions('RUN')[0]} && .venv/bin/{' '.join(entry + arguments)}" == first
    [workdir] = [folder for folder in instructions("WORKDIR") if folder != "/work"]
    assert any(f"PATH={workdir}/.venv/bin:$PATH" in line for line in instructions("ENV"))


def test_the_image_has_what_the_wheel_is_built_from():
    copied = {name for line in instructions("COPY") for name in line.split()[:-1]}
    wheel = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    project = PROJECT["project"]
    read = [project["readme"], *project["license-files"], *wheel["packages"], *wheel["force-include"]]
    assert copied == {"pyproject.toml", "constraints.txt", *read}
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert ignored[0] == "*"
    assert {line[1:] for line in ignored if line.startswith("!")} == copied


def test_the_image_is_of_a_tested_python_for_each_device():
    stages = dict(reversed(found.split(" AS ")) for found in instructions("FROM") if " AS " in found)
    assert stages.keys() == {"cpu", "cuda"}
    [python] = set(stages.values())
    version = re.fullmatch(r"python:(3\.\d+)-slim", python)[1]
    assert f"Programming Language :: Python :: {version}" in PROJECT["project"]["classifiers"]
    assert instructions("FROM")[-1] == "${DEVICE}"
    assert set(re.findall(r"DEVICE=(\w+)", (ROOT / "Dockerfile").read_text(encoding="utf-8"))) == stages.keys()
