"""Trains tiny pairs, one after the other, in whatever processes it was launched in, and writes what came of each.

    accelerate launch ... -m tests.helpers.train_program cases.json

`cases.json` holds `{name: arguments}` of `run`; what a case leaves lies in a folder of its name beside it.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from accelerate import PartialState
from datasets import Dataset
from safetensors.torch import save_file

from dro_trl import DROTrainer
from tests.helpers.backends import backend_options, shard_everything
from tests.helpers.tiny_models import tiny_questions
from tests.helpers.training import LORA, make_trainer, weights_of

SIZES = [4, 25, 6, 4, 25, 4, 5]
"""Candidates of each question: the identifiers of 25 may be two tokens long, those of four are one."""


def run(
    folder: Path, lora: bool, batch: int, evaluate: bool, rewards: list[str], questions: list[int], **options: Any
) -> None:
    """Train one pair.

    Args:
        folder: Where to write `weights.safetensors`, `history.json` and, for each process, what was drawn.
        lora: Whether to train adapters.
        batch: Questions in a step, over all processes.
        evaluate: Whether to evaluate at the end.
        rewards: Names of reward functions of `dro_trl`; the answer's likelihood where empty.
        questions: Number of candidates of each training question.
        options: Of `DROConfig`.
    """
    import dro_trl

    processes = int(os.environ.get("WORLD_SIZE", 1))
    per_device = batch // processes // options.get("gradient_accumulation_steps", 1)
    trainer = make_trainer(
        folder,
        trainer_class=RecordingTrainer,
        train_dataset=Dataset.from_list(tiny_questions(*questions)),
        eval_dataset=Dataset.from_list(tiny_questions(*SIZES)[:5]) if evaluate else None,
        reward_funcs=[getattr(dro_trl, name) for name in rewards] or None,
        peft_config=LORA if lora else None,
        per_device_train_batch_size=per_device,
        per_device_eval_batch_size=4 // processes,
        **options,
    )
    assert trainer.accelerator.num_processes == trainer.args.world_size == processes
    shard_everything(trainer)
    start = weights_of(trainer)
    trainer.train()
    metrics = trainer.evaluate() if evaluate else {}
    weights = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    rank = trainer.args.process_index
    (folder / f"drawn_{rank}.json").write_text(json.dumps(trainer.drawn))
    (folder / f"kind_{rank}.json").write_text(json.dumps(sorted({type(m).__name__ for m in trainer.model.modules()})))
    if rank == 0:
        save_file({name: weight.detach().clone() for name, weight in weights.items()}, folder / "weights.safetensors")
        moved = {"moved": max(float((weights[name] - start[name]).abs().max()) for name in weights)}
        (folder / "history.json").write_text(json.dumps([*trainer.state.log_history, {**metrics, **moved}]))


class RecordingTrainer(DROTrainer):
    """Keeps the step, the question and the selections of every training forward."""

    def _forward(self, model, batch):
        output = super()._forward(model, batch)
        if self.model.training:
            for row, drawn in zip(batch["rows"], output.selections.tolist(), strict=True):
                self.drawn = [*getattr(self, "drawn", []), [self.state.global_step, row["question"], drawn]]
        return output


if __name__ == "__main__":
    path = Path(sys.argv[1])
    for case, arguments in json.loads(path.read_text()).items():
        run(path.parent / case, **arguments, **backend_options())
    PartialState().destroy_process_group()
