"""The options of a supervised warm-up."""

from dataclasses import dataclass, field
from typing import Literal

from trl import SFTConfig

from dro_trl.lm.devices import settle_precision
from dro_trl.trainer.dro_config import SelectionConfig

Teacher = Literal["gold", "likelihood", "retriever", "run"]


@dataclass
class WarmupConfig(SFTConfig, SelectionConfig):
    """Options of `dro-trl warmup`, beside those of `trl.SFTConfig` and those shared with `DROConfig`."""

    _VALID_DICT_FIELDS = [*SFTConfig._VALID_DICT_FIELDS, *SelectionConfig._VALID_DICT_FIELDS]

    teacher: Teacher = field(
        default="gold",
        metadata={
            "help": "Whose order of the candidates is learnt: 'gold' (the gold passages, in the retriever's order), "
            "'likelihood' (by how likely the generator finds the answer given each alone), 'retriever', or 'run' (the "
            "order of `teacher_run`)."
        },
    )
    teacher_run: str | None = field(
        default=None, metadata={"help": "TREC run file with the order of `teacher: run`, such as a reranker's."}
    )

    # That of the model goes for TRL as well, whose versions differ in where they have it.
    trust_remote_code: bool = field(default=False, init=False)

    # Defaults of SFTConfig that differ here, most of them to be those of DROConfig
    bf16: bool | None = field(  # type: ignore[assignment]
        default=False,
        metadata={
            "help": "Whether to compute in bfloat16 (mixed precision); None, which recipes have where they say "
            "nothing: where the device has it."
        },
    )
    activation_checkpointing: bool | None = field(
        default=False, metadata={"help": "Compute activations again in the backward pass, to save memory."}
    )
    dataloader_persistent_workers: bool | None = field(
        default=None, metadata={"help": "Whether workers stay from epoch to epoch: they do where None."}
    )
    logging_first_step: bool = field(default=True, metadata={"help": "Log the first step, the loss at the start."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "Kept off: the rows are prepared already."})

    def __post_init__(self) -> None:
        settle_precision(self)
        super().__post_init__()
        if (self.teacher == "run") != (self.teacher_run is not None):
            raise ValueError(
                f"teacher={self.teacher!r} and teacher_run={self.teacher_run!r} do not go together: a run file is "
                "needed for teacher='run', and for no other"
            )
        if self.remove_unused_columns:
            raise ValueError("remove_unused_columns=True would take the columns that are trained on; leave it False")
        self.dataset_kwargs = {"skip_prepare_dataset": True}  # The prompts are made here, and nothing is cut off.
        self.max_length = None
