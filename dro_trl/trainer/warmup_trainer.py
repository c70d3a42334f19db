"""Supervised warm-up of a selector or a generator, from which a DRO run can start."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor, nn
from trl import SFTTrainer

from dro_trl.lm.compiling import compile_for
from dro_trl.models.answers import AnswerScorer
from dro_trl.models.model_card import write_warmup_card
from dro_trl.models.names import settle
from dro_trl.models.reading import read_into
from dro_trl.models.replacing import replacing_model
from dro_trl.policies.base import SelectionPolicy
from dro_trl.policies.gold import summed_logps
from dro_trl.trainer.resuming import ResumableTrainer, begin_checkpoint
from dro_trl.trainer.warmup_teachers import RETRIEVED, TaughtRows

logger = logging.getLogger(__name__)


class WarmupTrainer(ResumableTrainer, SFTTrainer):
    """TRL's `SFTTrainer`, whose interrupted runs go on as those of `DROTrainer` do."""

    facts: dict[str, Any]
    """What is warmed up, for checkpoints and the model card."""
    turns: dict[str, Any]
    """What both models read around texts."""

    def run_facts(self) -> dict[str, Any]:
        """Return what makes this run what it is, beside its options and rows."""
        return {**self.facts, "turns": self.turns}

    def pending_state(self) -> dict[str, Any]:
        """Return nothing: no step is spread over several."""
        return {}

    def restore_pending_state(self, state: dict[str, Any]) -> None:
        """Take up nothing."""

    def prediction_step(
        self, model: Any, inputs: Any, prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[Any, Any, Any]:
        """Return the loss; TRL of some versions has none for rows without `labels`, which a selector's are."""
        with torch.no_grad(), self.compute_loss_context_manager():
            loss = self.compute_loss(model, self._prepare_inputs(inputs))
        return loss.detach(), None, None

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        if not self.args.should_save:
            return
        folder = Path(output_dir or str(self.args.output_dir))
        begin_checkpoint(folder)
        with replacing_model(folder) as staged:
            super()._save(str(staged), state_dict)
            model: Any = self.accelerator.unwrap_model(self.model)
            model.generation_config.save_pretrained(staged)  # PEFT leaves it out.
            settle(staged, folder)

    def read_checkpoint(self, model: Any, folder: Path) -> None:
        """Read the model that a checkpoint holds, or its adapter."""
        read_into(model, folder)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write the card of a warm-up in place of TRL's, whose arguments are not heeded."""
        if self.is_world_process_zero():
            folder, history = Path(str(self.args.output_dir)), self.state.log_history
            write_warmup_card(folder, self.facts, vars(self.args), history, {"train": self.facts["dataset"]})


class _OneCall:
    """A model as a policy calls it inside the wrapped model's own forward, past hooks that are under way already."""

    def __init__(self, model: nn.Module, forward: Any) -> None:
        self._model, self._forward = model, forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._forward(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


class SelectorWarmupTrainer(WarmupTrainer):
    """Maximises the policy's own log-probability of the teacher's selections.

    For Plackett-Luce that is ListMLE (Xia et al., 2008) of the first K places; for the autoregressive policy the cross
    entropy of the identifiers, renormalised over the passages still available.

    Args:
        policy: Turns the model into a distribution over selections.
        kwargs: Those of `SFTTrainer`; the rows have a column `selection`, of at most K candidates.
    """

    def __init__(self, policy: SelectionPolicy, **kwargs: Any) -> None:
        super().__init__(data_collator=_as_rows, **kwargs)
        self.policy = policy
        self.model_accepts_loss_kwargs = False  # compute_loss averages over questions; Trainer over accumulation.
        model: Any = self.model
        forward = model.forward

        def with_selections(*args: Any, rows: Any = None, **kwargs: Any) -> Any:
            """Score rows where they are given: all of the policy's calls are one of the wrapped model."""
            return forward(*args, **kwargs) if rows is None else self.logps(_OneCall(model, forward), rows)

        model.forward = with_selections

    def _build_accelerator_args(self, **kwargs: Any) -> dict[str, Any]:
        return compile_for(super()._build_accelerator_args(**kwargs), [self.model])  # type: ignore[list-item]

    def logps(self, model: Any, rows: Sequence[dict[str, Any]]) -> Tensor:
        """Return log p_s(z|x) of each row's selection in nats, (B,)."""
        chosen = [[row["selection"]] for row in rows]
        questions: Any = rows
        return summed_logps(self.policy, model, questions, chosen, self.accelerator.device).logps[:, 0]

    def compute_loss(
        self, model: nn.Module, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return minus the mean log-probability of the teacher's selections."""
        loss = -model(rows=inputs["rows"]).mean()
        return (loss, {"loss": loss.detach()}) if return_outputs else loss


def _as_rows(rows: list[Any]) -> dict[str, Any]:
    return {"rows": rows}


def answer_dataset(taught: TaughtRows, scorer: AnswerScorer, num_selected: int) -> Dataset:
    """Return what the generator learns: `input_ids` as it reads them in DRO, `labels` on the first alias alone.

    It reads K passages, as it always does: a shorter selection is filled up in the retriever's order.
    """
    input_ids, labels = [], []
    for row, selection in zip(taught.dataset.to_list(), taught.selections, strict=True):
        place = {passage["id"]: index for index, passage in enumerate(row["candidates"])}
        filled = dict.fromkeys([*selection, *(place[id] for id in row[RETRIEVED])])
        prompt, answer = scorer.prompt_ids(row, list(filled)[:num_selected]), scorer.alias_ids(row)[0]
        input_ids.append(prompt + answer)
        labels.append([-100] * len(prompt) + answer)
    return Dataset.from_dict({"input_ids": input_ids, "labels": labels})
