"""What makes an interrupted run the same run again: its last whole checkpoint, its pending samples, its options."""

import errno
import logging
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from dro_trl.files.folders import owned
from dro_trl.files.writing import load_object, write_json
from dro_trl.options.masking import masked
from dro_trl.records import changes, plain, rows_digest
from dro_trl.trainer.workers import worker_context

logger = logging.getLogger(__name__)

RUN_NAME, OLD_RUN_NAME = "training_run.json", "run.json"
"""What says which run a checkpoint is of, and what it was called before."""

ALLOWED = (
    "dataloader_ debug disable_tqdm do_ early_stopping eval_ generator_model generator_url greater_is_better "
    "hub_ include_ label_names load_best log_ logging_ max_steps metric_for_best num_selections_to_print "
    "num_train_epochs output_dir past_index per_device_eval predict_with_generate prediction_loss_only project "
    "push_to_hub report_to restore_callback resume_from run_name save_ scoring_token_budget skip_memory "
    "torch_empty trackio use_cpu use_liger"
).split()
"""Beginnings of the names of options that may change when a run is taken up again: how often it logs, saves or
evaluates, how long it goes on, how much it reads at once. All others decide what the next step computes."""


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
    return plain({**options, **facts, "train_dataset": rows_digest(rows)})


def save_run(folder: Path, run: dict[str, Any]) -> None:
    """Write a run's description into a checkpoint."""
    write_json(folder / RUN_NAME, run)


def read_run_facts(folder: Path) -> dict[str, Any]:
    """Return the description of the run that wrote a checkpoint.

    Raises:
        ValueError: If there is none.
    """
    path = next((path for path in (folder / RUN_NAME, folder / OLD_RUN_NAME) if path.is_file()), None)
    if path is None:
        raise ValueError(f"{folder} holds no {RUN_NAME}; it is not a checkpoint of DROTrainer, or not a whole one")
    return load_object(path, "delete the checkpoint, and go on from the one before")


def check_same_run(folder: Path, run: dict[str, Any]) -> None:
    """Compare the run that wrote a checkpoint with the one that is to go on from it, and say what differs.

    Raises:
        ValueError: If something differs that would make it another run.
    """
    said = changes(masked(read_run_facts(folder)), run)  # Earlier versions hid nothing.
    allowed = {name for name in said if name.startswith(tuple(ALLOWED))}
    if forbidden := [said[name] for name in said if name not in allowed]:
        if "train_dataset" in said and "max_steps" in said:
            forbidden.append(f"{said['max_steps']}, which decides how much is read of a stream")
        raise ValueError(
            f"the run cannot go on from {folder}: {'; '.join(forbidden)}. Set it back, or start a new run in another "
            "folder"
        )
    for name in sorted(allowed - {"output_dir", "logging_dir"}):
        logger.warning(f"resuming from {folder}: {said[name]} (allowed)")


class ResumableTrainer(Trainer):
    """Checkpoints are told whole from torn, hold what is pending between two steps, and say what run they are of."""

    accelerator: Any

    def run_facts(self) -> dict[str, Any]:
        """Return what makes this run what it is, beside its options and rows."""
        raise NotImplementedError

    def pending_state(self) -> dict[str, Any]:
        """Return this process's part of what is between two steps."""
        raise NotImplementedError

    def take_up(self, run: dict[str, Any], checkpoint: Path) -> None:
        """Take from the run that wrote a checkpoint what is kept of it, before it is compared with this one."""

    def restore_pending_state(self, state: dict[str, Any]) -> None:
        """Take up what `pending_state` returned."""
        raise NotImplementedError

    def read_checkpoint(self, model: Any, folder: Path) -> None:
        """Read the weights that a checkpoint holds into the model, which must be those that it has."""
        raise NotImplementedError

    def useful_workers(self) -> int:
        """Return how many workers training can use."""
        return int(self.args.dataloader_num_workers)

    def _get_dataloader(self, *args: Any, **kwargs: Any) -> Any:
        """Return batches: workers prepare those of training, and stay from epoch to epoch unless told otherwise."""
        given, workers = vars(self.args), self.useful_workers() if kwargs.get("is_training") else 0
        keeps = bool(workers) and self.args.dataloader_persistent_workers is not False
        names = ("num_workers", "persistent_workers", "multiprocessing_context", "prefetch_factor")
        before = {f"dataloader_{name}": given[f"dataloader_{name}"] for name in names}
        method = worker_context(before["dataloader_multiprocessing_context"]) if workers else None
        prefetched = before["dataloader_prefetch_factor"] if workers else None
        try:
            given.update(zip(before, (workers, keeps, method, prefetched), strict=True))
            return super()._get_dataloader(*args, **kwargs)
        finally:
            given.update(before)

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Train as `transformers.Trainer` does; resuming takes a whole checkpoint of the same run.

        Args:
            resume_from_checkpoint: A checkpoint's folder, or True for the last whole one in `output_dir`.
            args: As in `transformers.Trainer`.
            kwargs: As in `transformers.Trainer`.

        Raises:
            ValueError: If there is no such checkpoint, or an option, the data or the processes differ from its run's.
            BlockingIOError: If another process trains into `output_dir`.
        """
        if resume_from_checkpoint is True:
            resume_from_checkpoint = str(last_checkpoint(Path(str(self.args.output_dir))) or "")
            if not resume_from_checkpoint:
                raise ValueError(f"output_dir={self.args.output_dir} holds no whole checkpoint to resume from")
        if resume_from_checkpoint:
            self.take_up(read_run_facts(Path(resume_from_checkpoint)), Path(resume_from_checkpoint))
        if (self.args.save_strategy != "no" or resume_from_checkpoint) and self.model is not None:
            self.describe()
        if resume_from_checkpoint:
            check_same_run(Path(resume_from_checkpoint), self._run)
        limit = self.args.save_total_limit
        if limit == 1 and self.args.metric_for_best_model is not None:
            # Of 1 Trainer keeps the best checkpoint alone in the end, and a longer run would go back to it.
            self.args.save_total_limit = 2
        try:
            with owned(Path(str(self.args.output_dir)), self.is_world_process_zero()):
                return super().train(resume_from_checkpoint or None, *args, **kwargs)
        finally:
            self.args.save_total_limit = limit

    def describe(self) -> None:
        """Note what checkpoints have to say about this run."""
        backend, plugin = str(self.accelerator.distributed_type), self.accelerator.state.deepspeed_plugin
        self._run = describe_run(
            self.args.to_dict(),
            self.train_dataset or (),  # type: ignore[arg-type]
            processes=self.args.world_size,
            backend=backend if plugin is None else f"{backend} ZeRO-{plugin.zero_stage}",
            **self.run_facts(),
        )

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        folder = Path(str(self.args.output_dir)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        try:
            super()._save_checkpoint(model, trial)
        except Exception as error:  # Each library has an exception of its own for a full disk.
            if is_disk_full(folder, error):
                last = discard_checkpoint(folder)
                raise OSError(
                    f"{folder} could not be saved, the disk is full: free some space and resume; "
                    f"{f'the last whole checkpoint is {last}' if last else 'there is no earlier checkpoint'}"
                ) from error
            raise

    # Trainer writes the state of random numbers on every process, behind the weights and the optimizer and before
    # `trainer_state.json`: what is pending goes with it, both ways. A training step that is done again after this has
    # the same samples, draws and means as if the run had never stopped.

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        save_pending(Path(output_dir), self.args.process_index, self.pending_state())
        if self.args.should_save:
            save_run(Path(output_dir), self._run)
        self.accelerator.wait_for_everyone()  # `trainer_state.json`, which follows, says that all is there.

    def _load_rng_state(self, checkpoint: str | None) -> None:
        super()._load_rng_state(checkpoint)
        if checkpoint is not None:
            self.restore_pending_state(load_pending(Path(checkpoint), self.args.process_index))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            self.read_checkpoint(self.accelerator.unwrap_model(model or self.model), Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            super()._load_best_model()
        else:
            self._load_from_checkpoint(str(self.state.best_model_checkpoint))
