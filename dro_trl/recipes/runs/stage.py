"""Stages: commands with their inputs and products, run once and recognised by their record."""

import json
import os
import shlex
import signal
import sys
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dro_trl
from dro_trl.files.writing import load_object, write_json
from dro_trl.names import MODULES
from dro_trl.options.masking import masked, masked_words
from dro_trl.recipes.processes import start
from dro_trl.recipes.runs.digests import RECORD_NAME, Digests
from dro_trl.recipes.secrets import write_recipe
from dro_trl.records import differences

STARTED_NAME = "started.json"
EARLIER_NAME = "earlier"


@dataclass
class Stage:
    """One stage of a run.

    Its folder holds `started.json` (its inputs) while it is under way, and `stage.json` once its products are whole.
    """

    name: str
    section: str
    """Of the recipe; two stages may share one."""
    folder: Path
    products: list[str] = field(default_factory=list)
    """Files and folders in the folder that later stages read."""
    commands: list[list[str]] = field(default_factory=list)
    """Arguments of `dro-trl`, one list a command."""
    options: dict[str, Any] = field(default_factory=dict)
    """What the recipe sets, paths of inputs aside."""
    sources: dict[str, str] = field(default_factory=dict)
    """Files and folders to read, or names on the hub, each by the name of its option."""
    recipe: dict[str, Any] | None = None
    """For commands that take `--config`: written to `recipe.yaml`."""
    launch: list[str] | None = None
    """Options of `accelerate launch`, where the command is run by it."""
    python_path: list[str] = field(default_factory=list)
    """Folders of the recipe's own modules, where the command would not look."""
    _secrets: dict[str, str] = field(default_factory=dict)
    """Environment in which the recipe that was written is whole."""

    def inputs(self, digests: Digests) -> dict[str, Any]:
        """Return all that decides what the stage makes, as plain JSON."""
        files = {
            name: digests.of(Path(source)) if Path(source).exists() else source
            for name, source in sorted(self.sources.items())
        }
        inputs = {
            "options": masked(self.options),
            "launch": self.launch,
            "files": files,
            "dro_trl": dro_trl.__version__,
        }
        plain: dict[str, Any] = json.loads(json.dumps(inputs, default=str))
        return plain

    def reason_to_run(self, inputs: dict[str, Any], digests: Digests) -> str | None:
        """Say why the stage has to run, None where what it made is there and would be made again."""
        record = read_record(self.folder / RECORD_NAME)
        if record is None:
            started = read_record(self.folder / STARTED_NAME)
            if started is None:
                return "not run yet"
            found = self.differing(started["inputs"], inputs)
            return f"changed since it was interrupted: {found}" if found else "goes on: it was interrupted"
        if found := self.differing(record["inputs"], inputs):
            return found
        for name, made in record["products"].items():
            path = self.folder / name
            # Of a folder the files that the stage made, each by its name in it; others may have been added.
            files = {path / part: digest for part, digest in made.items()} if isinstance(made, dict) else {path: made}
            for file, digest in files.items():
                if not file.exists():
                    return f"{file} is missing"
                if digest is not None and digests.of(file) != digest:
                    return f"{file} was changed since"
        return None

    def differing(self, before: dict[str, Any], after: dict[str, Any]) -> str:
        """Say what differs between two records of inputs, nothing where they are the same."""
        before, after = masked(dict(before)), dict(after)  # Earlier versions hid nothing.
        old, new = before.pop("files"), after.pop("files")
        options = [before.pop("options"), after.pop("options")]
        changed = [f"{name}: {self.sources[name]} has changed" for name in new if old.get(name) != new[name]]
        gone = [f"{name} is no longer set" for name in old if name not in new]
        return "; ".join([*differences(*options), *differences(before, after), *changed, *gone])

    def run(self, inputs: dict[str, Any], digests: Digests, lock: int, anew: bool = False) -> dict[str, Any]:
        """Run the stage's commands, and write its record once its products are whole.

        A stage that was interrupted goes on in its folder, where the inputs are the same. Anything else in the folder
        is moved to `earlier` beside it, and never deleted.

        Args:
            inputs: As `inputs` returns them.
            digests: Where those of the products are added.
            lock: File descriptor that the commands keep open while they run.
            anew: Whether to begin again even if the same run was interrupted.

        Returns:
            The record.

        Raises:
            RuntimeError: If a command fails, or leaves a product unmade.
        """
        started = None if (self.folder / RECORD_NAME).exists() else read_record(self.folder / STARTED_NAME)
        resumed = started is not None and started["inputs"] == inputs and not anew
        if not resumed and self.folder.is_dir() and any(self.folder.iterdir()):
            print(f"  what {self.folder} held is now in {set_aside(self.folder)}")
        write_json(self.folder / STARTED_NAME, {"inputs": inputs})
        if self.recipe is not None:
            self._secrets = write_recipe(self.recipe, self.folder / "recipe.yaml")
        begun, clock = datetime.now(UTC), time.monotonic()
        for command in self.commands:
            print(f"$ {self.shown(command)}", flush=True)
            self._run_command(command, lock)
        if missing := [name for name in self.products if not (self.folder / name).exists()]:
            raise RuntimeError(f"stage {self.name} ended without making {self.folder / missing[0]}")
        made = {name: self.folder / name for name in self.products}
        record = {
            "stage": self.name,
            "commands": [self.shown(command) for command in self.commands],
            "inputs": inputs,
            "sources": self.sources,
            "products": {n: digests.of_files(path) if path.is_dir() else digests.of(path) for n, path in made.items()},
            "started": begun.isoformat(timespec="seconds"),
            "resumed": resumed,
            "seconds": round(time.monotonic() - clock, 1),
        }
        write_json(self.folder / RECORD_NAME, record)
        (self.folder / STARTED_NAME).unlink()
        return record

    def shown(self, arguments: list[str]) -> str:
        """Return a command as one would type it."""
        path = [f"PYTHONPATH={shlex.quote(os.pathsep.join(self.python_path))}"] if self.python_path else []
        program = ["dro-trl"] if self.launch is None else ["accelerate", "launch", *self.launch, "-m", "dro_trl"]
        return " ".join([*path, shlex.join([*program, *masked_words(arguments)])])

    def _run_command(self, arguments: list[str], lock: int) -> None:
        launch = [] if self.launch is None else ["-m", "accelerate.commands.launch", *self.launch]
        command = [sys.executable, "-P", *launch, "-m", "dro_trl", *arguments]
        environment = {**os.environ, **self._secrets, MODULES: os.pathsep.join(self.python_path)}
        if self.launch is not None:
            environment["PYTHONSAFEPATH"] = "1"  # As -P, for the processes that accelerate starts.
        # A group of its own, so that the processes of `accelerate launch` end together with it.
        with start(command, env=environment, pass_fds=[lock], process_group=0) as process:
            try:
                code = process.wait()
            except BaseException:
                os.killpg(process.pid, signal.SIGTERM)
                raise
        if code:
            raise RuntimeError(
                f"stage {self.name}: `{self.shown(arguments)}` ended with exit code {code}; its own message is above. "
                "The same `dro-trl run` goes on there"
            )


def read_record(path: Path) -> dict[str, Any] | None:
    """Return what a stage wrote of itself, None where it wrote nothing."""
    if not path.is_file():
        return None
    return load_object(path, "delete it: the stage is run anew, its folder set aside")


def set_aside(folder: Path) -> Path:
    """Move a folder to `earlier` beside it, under its name and the first number that is free."""
    kept = folder.parent / EARLIER_NAME
    kept.mkdir(exist_ok=True)
    number = 1
    while (target := kept / f"{folder.name}-{number}").exists():
        number += 1
    return folder.rename(target)
