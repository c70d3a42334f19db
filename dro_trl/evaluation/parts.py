"""Questions in parts, which processes share.

What is found for a part is kept until the evaluation is finished, so that a killed one goes on. Parts do not depend on
the number of processes, and each is read by one of them, so the results do not depend on it either.
"""

import logging
import re
from collections.abc import Callable, Sequence
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from tqdm.auto import tqdm

from dro_trl.files.wording import counted
from dro_trl.files.writing import load_json, load_object, write_json
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
PART_SUFFIX = ".part.json"
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
        # The first process says what is kept: the others may begin a moment later, when there is more already.
        found: dict[int, list[Any]] = broadcast_object_list([self._kept(name)])[0]
        missing = [part for part in self._parts if part.start not in found]
        with self._processes.split_between_processes(missing) as own:
            found |= dict(gather_object(self._find(name, own, find)))
        return [value for part in self._parts for value in found[part.start]]

    def _find(
        self, name: str, parts: Sequence[slice], find: Callable[[slice], list[Any]]
    ) -> list[tuple[int, list[Any]]]:
        found = []
        total = sum(part.stop - part.start for part in parts)
        # One that is done within a second has nothing to show.
        silent = not parts or not self._processes.is_main_process
        with tqdm(desc=name, total=total, disable=silent, delay=1) as bar:
            for part in parts:
                found.append((part.start, find(part)))
                if self._folder is not None:
                    write_json(self._folder / _file_name(name, part), found[-1][1])
                bar.update(part.stop - part.start)
        return found

    def _kept(self, name: str) -> dict[int, list[Any]]:
        if self._folder is None:
            return {}
        if self._run is not None:
            go_on(self._folder, self._run)
            self._run = None
        paths = {part.start: self._folder / _file_name(name, part) for part in self._parts}
        return {start: load_json(path, _REMEDY) for start, path in paths.items() if path.is_file()}


def _file_name(name: str, part: slice) -> str:
    return f"{re.sub(r'[^a-z]+', '-', name)}.{part.start:06}{PART_SUFFIX}"


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
    path = next((path for path in (folder / RUN_NAME, folder / OLD_RUN_NAME) if path.is_file()), None)
    if path is not None:
        saved = load_object(path, _REMEDY)
        said = changes(saved, run)
        if not said:
            if parts := len(list(folder.glob("*" + PART_SUFFIX))):
                logger.warning(f"going on from {counted(parts, 'part')} that {folder} holds")
            return
        logger.warning(f"{folder} holds parts of another evaluation; beginning anew, since {'; '.join(said.values())}")
    discard(folder)
    write_json(folder / RUN_NAME, run)


def discard(folder: Path) -> None:
    """Delete the parts that a folder holds, and the folder where it holds nothing else."""
    for name in (RUN_NAME, OLD_RUN_NAME):  # First, since without it no part is taken for one of another run.
        (folder / name).unlink(missing_ok=True)
    for path in [*folder.glob(f"*{PART_SUFFIX}"), *folder.glob(f".*{PART_SUFFIX}.*"), *folder.glob(f".{RUN_NAME}.*")]:
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
        "questions": rows_digest(rows),
        "versions": {name: version(name) for name in ("dro-trl", "torch", "transformers", "peft")},
    }
    return plain(described)
