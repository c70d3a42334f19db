"""Questions in parts, which processes share.

What is found for a part is kept until the evaluation is finished, so that a killed one goes on. Parts do not depend on
the number of processes, and each is read by one of them, so the results do not depend on it either.
"""

import json
import logging
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from tqdm.auto import tqdm

from dro_trl.data.mapped_rows import MappedRows
from dro_trl.files.wording import counted
from dro_trl.files.writing import load_object, make_folder, write_json
from dro_trl.lm.devices import AUTO, choose_device, choose_dtype
from dro_trl.models.saving import CONFIG_NAME, MODELS, read_config
from dro_trl.options.masking import masked
from dro_trl.records import changes, files_digest, plain, rows_digest
from dro_trl.types import Question

logger = logging.getLogger(__name__)

BATCHES = 4
"""How many batches of questions are a part."""
RUN_NAME, OLD_RUN_NAME = "evaluation_run.json", "run.json"
"""What says which evaluation the parts are of, and what it was called before."""
PARTS_SUFFIX = ".parts.jsonl"
"""Of a file to which one process appends a line for each part of one thing that it finds: the first row's number, and
what was found. A last line without an end was being written when the process was killed."""
_OLD_SUFFIX = ".part.json"
_REMEDY = "give --no_resume, or delete it: the evaluation begins anew"


class Parts:
    """All questions of an evaluation, part by part.

    Args:
        num_rows: How many questions there are.
        batch_size: Questions in a batch.
        processes: Those that share the parts.
        folder: Where parts are kept; nowhere if None.
        run: In the first process, what `describe_evaluation` returned: parts of another evaluation are discarded when
            parts are first looked for.
    """

    def __init__(
        self,
        num_rows: int,
        batch_size: int,
        processes: PartialState,
        folder: Path | None = None,
        run: dict[str, Any] | None = None,
    ) -> None:
        self._processes, self._run = processes, run
        size = BATCHES * batch_size
        self._parts = [slice(start, min(start + size, num_rows)) for start in range(0, num_rows, size)]
        self._folder = folder

    def map(self, name: str, find: Callable[[slice], list[Any]]) -> list[Any]:
        """Return what is found for all questions; what is kept already is not found again.

        Args:
            name: What is found, for the progress bar and the files.
            find: Finds a JSON value for each question of a part; what it returns may depend on the part alone.
        """
        # The first process alone reads what is kept: another might take away a line that a third is writing.
        kept = self._kept(name) if self._processes.is_main_process else {}
        found: dict[int, list[Any]] = broadcast_object_list([kept])[0]
        missing = [part for part in self._parts if part.start not in found]
        with self._processes.split_between_processes(missing) as own:
            found |= dict(gather_object(self._find(name, own, find)))
        return [value for part in self._parts for value in found[part.start]]

    def begun(self, names: Collection[str]) -> bool:
        """Return whether something is kept already of what `map` is called by one of these names for."""
        found = False
        if self._folder is not None and (self._run is None or _changes(self._folder, self._run) == {}):
            patterns = [f"{_slug(name)}.*{PARTS_SUFFIX}" for name in names]
            found = any(path.stat().st_size for pattern in patterns for path in self._folder.glob(pattern))
        return bool(broadcast_object_list([found])[0])

    def _find(
        self, name: str, parts: Sequence[slice], find: Callable[[slice], list[Any]]
    ) -> list[tuple[int, list[Any]]]:
        found = []
        total = sum(part.stop - part.start for part in parts)
        # One that is done within a second has nothing to show.
        silent = not parts or not self._processes.is_main_process
        with tqdm(desc=name, total=total, disable=silent, delay=1) as bar, self._keeping(name) as keep:
            for part in parts:
                found.append((part.start, find(part)))
                keep(json.dumps(found[-1], ensure_ascii=False) + "\n")
                bar.update(part.stop - part.start)
        return found

    @contextmanager
    def _keeping(self, name: str) -> Iterator[Callable[[str], object]]:
        """Yield what adds a line to this process's file, and hands it to the system."""
        if self._folder is None:
            yield lambda line: None
            return
        make_folder(self._folder)
        path = self._folder / f"{_slug(name)}.{self._processes.process_index}{PARTS_SUFFIX}"
        try:
            with path.open("a", encoding="utf-8", buffering=1) as file:
                yield file.write
        except OSError as error:  # Of a full disk, which names no file.
            error.filename = error.filename or str(path)
            raise

    def _kept(self, name: str) -> dict[int, list[Any]]:
        if self._folder is None:
            return {}
        if self._run is not None:
            go_on(self._folder, self._run)
            self._run = None
        starts = {part.start for part in self._parts}
        files = sorted(self._folder.glob(f"{_slug(name)}.*{PARTS_SUFFIX}"))
        return {start: found for path in files for start, found in _read(path) if start in starts}


def _slug(name: str) -> str:
    return re.sub(r"[^a-z]+", "-", name)


def _read(path: Path) -> Iterator[tuple[int, list[Any]]]:
    """Yield what a file of parts holds, and take a line away that was not finished."""
    whole = 0
    with path.open("rb+") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                break
            whole += len(line)
            try:
                start, found = json.loads(line)
            except (ValueError, TypeError) as error:
                raise ValueError(f"{path}, line {number} is damaged ({error}); {_REMEDY}") from error
            yield start, found
        file.truncate(whole)


def launched_processes(device: str | torch.device = AUTO) -> PartialState:
    """Return the processes that the program was launched on, one where it was started without `accelerate launch`.

    Args:
        device: Where the models run, as `choose_device` takes it.

    Raises:
        ValueError: If there is no such device.
    """
    # A process that is done waits for the others for as long as their last part takes.
    return PartialState(cpu=choose_device(device).type == "cpu", timeout=timedelta(days=1))


def choose_place(
    processes: PartialState, device: str | torch.device = AUTO, dtype: str | torch.dtype = AUTO
) -> tuple[torch.device, torch.dtype]:
    """Return where this process runs its models, on a device of its own where none is said, and in which format.

    Args:
        processes: The launched ones.
        device: As `choose_device` takes it.
        dtype: As `choose_dtype` takes it.

    Raises:
        ValueError: If there is no such device or format.
    """
    chosen = choose_device(device)
    if processes.num_processes > 1 and chosen.type != "cpu" and str(device) in (AUTO, chosen.type):
        chosen = processes.device
    return chosen, choose_dtype(dtype, chosen)


def go_on(folder: Path, run: dict[str, Any]) -> None:
    """Leave the parts of an interrupted evaluation where they are if it was the same, else begin anew, and say which.

    Args:
        folder: Where parts are kept.
        run: What `describe_evaluation` returned.
    """
    said = _changes(folder, run)
    if said is not None:
        if not said:
            if parts := sum(path.read_bytes().count(b"\n") for path in folder.glob(f"*{PARTS_SUFFIX}")):
                logger.warning(f"going on from {counted(parts, 'part')} that {folder} holds")
            return
        logger.warning(f"{folder} holds parts of another evaluation; beginning anew, since {'; '.join(said.values())}")
    discard(folder)
    write_json(folder / RUN_NAME, run)


def _changes(folder: Path, run: dict[str, Any]) -> dict[str, str] | None:
    """In what an evaluation is another than the one that a folder holds parts of; None where it holds none."""
    path = next((path for path in (folder / RUN_NAME, folder / OLD_RUN_NAME) if path.is_file()), None)
    return None if path is None else changes(load_object(path, _REMEDY), run)


def discard(folder: Path) -> None:
    """Delete the parts that a folder holds, and the folder where it holds nothing else."""
    for name in (RUN_NAME, OLD_RUN_NAME):  # First, since without it no part is taken for one of another run.
        (folder / name).unlink(missing_ok=True)
    for pattern in (f"*{PARTS_SUFFIX}", f"*{_OLD_SUFFIX}", f".*{_OLD_SUFFIX}.*", f".{RUN_NAME}.*"):
        for path in folder.glob(pattern):
            path.unlink()
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def describe_evaluation(folder: Path, rows: Sequence[Question], **options: Any) -> dict[str, Any]:
    """Return what decides the outcome of an evaluation, as plain JSON: contents by their digests.

    Args:
        folder: What `DROTrainer` saved.
        rows: The questions.
        **options: What else is in play.
    """
    starts = {path: Path(path) for path in read_config(folder)["start"].values() if path}
    described = {
        **masked(options),
        "model": files_digest([folder / CONFIG_NAME, *(folder / name for name in MODELS)]),
        "start": {path: files_digest([start]) if start.is_dir() else None for path, start in starts.items()},
        "questions": rows.digest() if isinstance(rows, MappedRows) else rows_digest(rows),
        "versions": {name: version(name) for name in ("dro-trl", "torch", "transformers", "peft")},
    }
    return plain(described)
