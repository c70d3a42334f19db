"""A `transformers.Trainer` whose interrupted runs go on as if they had not been, on any number of processes."""

from pathlib import Path
from typing import Any

from transformers import Trainer
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from dro_trl.files.folders import owned
from dro_trl.trainer.resuming import (
    check_same_run,
    describe_run,
    discard_checkpoint,
    is_disk_full,
    last_checkpoint,
    load_pending,
    read_run_facts,
    save_pending,
    save_run,
)


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
        if self.args.save_strategy != "no" or resume_from_checkpoint:
            backend, plugin = str(self.accelerator.distributed_type), self.accelerator.state.deepspeed_plugin
            self._run = describe_run(
                self.args.to_dict(),
                self.train_dataset or (),  # type: ignore[arg-type]
                processes=self.args.world_size,
                backend=backend if plugin is None else f"{backend} ZeRO-{plugin.zero_stage}",
                **self.run_facts(),
            )
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
