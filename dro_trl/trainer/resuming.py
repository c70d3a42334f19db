"""What makes an interrupted run the same run again: its last whole checkpoint, its pending samples, its options."""

import errno
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from transformers.trainer import TRAINER_STATE_NAME

from dro_trl.files.writing import load_object, write_json
from dro_trl.options.masking import masked

logger = logging.getLogger(__name__)

RUN_NAME = "run.json"

ALLOWED = (
    "dataloader_ debug disable_tqdm do_ eval_ greater_is_better hub_ include_ label_names load_best log_ logging_ "
    "max_steps metric_for_best num_selections_to_print num_train_epochs output_dir past_index per_device_eval "
    "prediction_loss_only project push_to_hub report_to resume_from restore_callback run_name save_ "
    "scoring_token_budget skip_memory torch_empty trackio use_cpu use_liger"
).split()
"""Beginnings of the names of options that may change when a run is taken up again."""


def last_checkpoint(folder: Path) -> Path | None:
    """Return the newest whole checkpoint of a run, None where there is none.

    A run that was killed while it saved leaves a folder without `trainer_state.json`, which is written last, or with
    half of one; such a folder is passed over with a warning.
    """
    steps = {
        int(path.name.partition("-")[2]): path for path in folder.glob("checkpoint-*") if path.name[11:].isdigit()
    }
    for _, path in sorted(steps.items(), reverse=True):
        try:
            load_object(path / TRAINER_STATE_NAME, "")
        except (FileNotFoundError, ValueError):
            logger.warning(f"{path} is not a whole checkpoint and is passed over")
            continue
        return path
    return None


def begin_checkpoint(folder: Path) -> None:
    """Take away what says that a checkpoint is whole, before anything in it is overwritten."""
    (folder / TRAINER_STATE_NAME).unlink(missing_ok=True)


def is_disk_full(folder: Path, error: Exception) -> bool:
    """Whether an error while a folder was written comes of a full disk: said so, or less than 1 MiB is left there."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    return os.strerror(errno.ENOSPC) in str(error) or shutil.disk_usage(there).free < 2**20


def discard_checkpoint(folder: Path) -> Path | None:
    """Delete a torn checkpoint, and return the last whole one beside it."""
    shutil.rmtree(folder, ignore_errors=True)
    return last_checkpoint(folder.parent)


def save_pending(folder: Path, rank: int, state: dict[str, Any]) -> None:
    """Write what is pending in a process into a checkpoint."""
    torch.save(state, folder / f"estimation_state_{rank}.pt")


def load_pending(folder: Path, rank: int) -> dict[str, Any]:
    """Read what `save_pending` wrote."""
    state: dict[str, Any] = torch.load(folder / f"estimation_state_{rank}.pt", weights_only=True)
    return state


def describe_run(options: dict[str, Any], rows: Iterable[Any], **facts: Any) -> dict[str, Any]:
    """Return what a checkpoint has to say about its run, as plain JSON.

    Args:
        options: The trainer's options, `DROConfig.to_dict()`.
        rows: The training rows, of which a digest is kept.
        facts: What else makes the run what it is, such as the number of processes.
    """
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row, sort_keys=True, default=str).encode())
    described = {**options, **facts, "train_dataset": digest.hexdigest()[:16]}
    plain: dict[str, Any] = json.loads(json.dumps(described, sort_keys=True, default=str))
    return plain


def save_run(folder: Path, run: dict[str, Any]) -> None:
    """Write a run's description into a checkpoint."""
    write_json(folder / RUN_NAME, run)


def read_run_facts(folder: Path) -> dict[str, Any]:
    """Return the description of the run that wrote a checkpoint.

    Raises:
        ValueError: If there is none.
    """
    path = folder / RUN_NAME
    if not path.is_file():
        raise ValueError(f"{folder} holds no {RUN_NAME}; it is not a checkpoint of DROTrainer, or not a whole one")
    return load_object(path, "delete the checkpoint, and go on from the one before")


def check_same_run(folder: Path, run: dict[str, Any]) -> None:
    """Compare the run that wrote a checkpoint with the one that is to go on from it, and say what differs.

    Raises:
        ValueError: If something differs that would make it another run.
    """
    saved = masked(read_run_facts(folder))  # Earlier versions hid nothing.
    differing = {n: (saved.get(n), run.get(n)) for n in sorted({*saved, *run}) if saved.get(n) != run.get(n)}
    allowed = {name for name in differing if name.startswith(tuple(ALLOWED))}
    said = {name: f"{name} was {before!r} and is now {now!r}" for name, (before, now) in differing.items()}
    if forbidden := [said[name] for name in said if name not in allowed]:
        raise ValueError(
            f"the run cannot go on from {folder}: {'; '.join(forbidden)}. Set it back, or start a new run in another "
            "folder"
        )
    for name in sorted(allowed - {"output_dir", "logging_dir"}):
        logger.warning(f"resuming from {folder}: {said[name]} (allowed)")
