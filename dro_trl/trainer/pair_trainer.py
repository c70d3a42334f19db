"""A resumable trainer of two models: each is saved, loaded and uploaded in a folder of its own."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from dro_trl.lm.compiling import compile_for
from dro_trl.lm.older_versions import check_recomputed
from dro_trl.lm.tokens import Tokenizer
from dro_trl.lm.turns import adopt_turns, saved_turns
from dro_trl.models.model_card import write_model_card
from dro_trl.models.saving import (
    check_output,
    copy_pair,
    include_base,
    load_models,
    read_learnt,
    replacing_pair,
    save_models,
    write_config,
)
from dro_trl.trainer.resuming import RUN_NAME, ResumableTrainer, begin_checkpoint


class PairTrainer(ResumableTrainer):
    """Keeps a pair as `selector/`, `generator/`, `dro_config.json` and a model card, in checkpoints and on the hub."""

    args: Any  # A `DROConfig`.
    model: Any  # Trainer's own hints say less than is true here.
    tokenizers: dict[str, Tokenizer]
    """Of `selector` and `generator`."""
    dataset_names: Mapping[str, str | None] = {}
    """What a recipe calls the questions of `train` and `eval`, for the model card."""
    _policy_path: str | None
    _start: dict[str, Any]
    _learnt: dict[str, float] | None = None
    """What was learnt of the policy's arguments when the pair was last saved."""
    _learnt_start: dict[str, float] | None = None
    """What the pair that training started from had learnt of them."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        try:
            super().__init__(*args, **kwargs)
        except ValueError as error:  # What it refuses are options.
            raise ValueError(" ".join(str(error).split())) from error
        check_recomputed(self.is_fsdp_enabled, self.args)
        check_output(Path(str(self.args.output_dir)), self._start)

    def _build_accelerator_args(self, **kwargs: Any) -> dict[str, Any]:
        return compile_for(super()._build_accelerator_args(**kwargs), self.model.base_models())

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        if not self.args.should_save:
            return
        folder = Path(output_dir or str(self.args.output_dir))
        begin_checkpoint(folder)
        pair = self.accelerator.unwrap_model(self.model)
        with replacing_pair(folder) as staged:
            save_models(pair, staged, self.tokenizers, state_dict, folder)
            self._learnt = read_learnt(pair, state_dict)
            write_config(staged, self._options(), folder)
        if self.args.save_base and folder.resolve() == Path(str(self.args.output_dir)).resolve():
            include_base(folder)
        self._write_card(folder)

    def _options(self) -> dict[str, Any]:
        policy = {"policy": self._policy_path, "learnt_policy_kwargs": self._learnt or self._learnt_start}
        policy["start_policy_kwargs"] = self._learnt_start
        return {**vars(self.args), **policy, "start": self._start, "turns": saved_turns(self.tokenizers)}

    def _write_card(self, folder: Path) -> None:
        repo_id = getattr(self, "hub_model_id", None)
        write_model_card(folder, self._options(), self.state.log_history, repo_id, self.dataset_names)

    def take_up(self, run: dict[str, Any], checkpoint: Path) -> None:
        """Read prompts as when the run began: a chat template may write the day's date."""
        if "turns" in run:
            adopt_turns(self.tokenizers, run["turns"], f"{checkpoint / RUN_NAME}: turns")

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write the pair's own model card in place of Trainer's, whose arguments are not heeded."""
        if self.is_world_process_zero():
            self._write_card(Path(str(self.args.output_dir)))

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if self.is_world_process_zero():
            copy_pair(Path(checkpoint_folder), Path(str(self.args.output_dir)))  # Trainer copies one model's files.
        super()._push_from_checkpoint(checkpoint_folder)

    def read_checkpoint(self, model: Any, folder: Path) -> None:
        """Read the pair that a checkpoint holds."""
        load_models(model, folder)
