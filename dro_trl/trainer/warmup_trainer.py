"""Supervised warm-up of a selector or a generator, from which a DRO run can start."""

import logging
import shutil
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from datasets import Dataset
from peft import PeftModel
from torch import Tensor, nn
from transformers import set_seed
from trl import SFTTrainer

from dro_trl.files.writing import write_json
from dro_trl.lm.compiling import compile_for
from dro_trl.lm.devices import choose_dtype, name_of
from dro_trl.lm.prompts import Tokenizer
from dro_trl.lm.sharding import most_forwards
from dro_trl.lm.turns import adopt_turns, check_turns, saved_turns, stop_where_answers_end
from dro_trl.models.causal_lm import check_causal
from dro_trl.models.loading import Start, load_model, load_tokenizers, loading_whole
from dro_trl.models.merging import save_whole
from dro_trl.models.model_card import write_warmup_card
from dro_trl.models.names import settle
from dro_trl.models.quantised import keep_gradients
from dro_trl.models.reading import read_into, whole_name
from dro_trl.models.replacing import replacing_model
from dro_trl.models.selector_generator import AnswerScorer
from dro_trl.policies.base import SelectionPolicy, load_policy
from dro_trl.recipes.options import WARMUP, read_given
from dro_trl.recipes.training import (
    DROScriptArguments,
    RecipeModel,
    check_starts,
    checkpoint_to_resume,
    decide_loading,
    load_datasets,
    loading_options,
    make_parts,
    own_output,
    peft_config_of,
)
from dro_trl.trainer.dataset import naming_sources
from dro_trl.trainer.refused_options import check_adapter
from dro_trl.trainer.resumable_trainer import ResumableTrainer
from dro_trl.trainer.resuming import RUN_NAME, begin_checkpoint, read_run_facts
from dro_trl.trainer.starts import adapter_config, merged_where_needed, start_names, turns_of_pair
from dro_trl.trainer.warmup_config import WarmupConfig
from dro_trl.trainer.warmup_teachers import RETRIEVED, TaughtRows, teach

logger = logging.getLogger(__name__)

Part = Literal["selector", "generator"]
RESULTS_NAME = "warmup_results.json"


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
        """Return log p_s(z|x) of each row's selection in nats, (B,) in any order of the rows.

        Selections of one length are scored together, so that a policy need not know of any padding.
        """
        by_length: dict[int, list[dict[str, Any]]] = defaultdict(list)
        for row in rows:
            by_length[len(row["selection"])].append(row)
        groups = list(by_length.values())
        found = []
        # Where the model is sharded, a process with fewer lengths computes one again, for nothing.
        for number in range(most_forwards(self.model, len(groups))):  # type: ignore[arg-type]
            group = groups[min(number, len(groups) - 1)]
            inputs = self.policy.encode(group).to(self.accelerator.device)  # type: ignore[arg-type]
            selections = torch.tensor([[row["selection"]] for row in group], device=self.accelerator.device)
            logps = self.policy.logps(model, inputs, selections).logps[:, 0]
            found.append(logps if number < len(groups) else logps[:0])
        return torch.cat(found)

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


def parse_warmup(arguments: Sequence[str]) -> tuple[DROScriptArguments, WarmupConfig, RecipeModel]:
    """Parse the recipe of a warm-up; see `read_given` and `make_parts`."""
    script, args, model = make_parts(read_given(arguments, WARMUP), WarmupConfig)
    return script, args, model


def run_warmup(part: Part, script: DROScriptArguments, args: WarmupConfig, model: RecipeModel) -> WarmupTrainer:
    """Warm a model up as a recipe says, and save it with `warmup_results.json` in `args.output_dir`.

    Raises:
        ValueError: If a row, the teacher or an option is not valid.
        FileExistsError: If the output folder holds a model that no warm-up wrote.
        BlockingIOError: If another process writes there.
    """
    starts = {"model_name_or_path": model.model_name_or_path, "generator_name_or_path": args.generator_name_or_path}
    check_starts(model, args)
    written = ("config.json", "model.safetensors", "adapter", "README.md", RESULTS_NAME)
    sources = {"train_dataset": script.dataset_name, "eval_dataset": script.eval_dataset_name}
    with own_output(args, starts, written, (RESULTS_NAME,)), naming_sources(**sources):
        return _run_warmup(part, script, args, model)


def _run_warmup(part: Part, script: DROScriptArguments, args: WarmupConfig, model: RecipeModel) -> WarmupTrainer:
    started = time.monotonic()
    asked = loading_options(model, args.model_init_kwargs)
    reading = {**asked, "dtype": name_of(choose_dtype(asked.get("dtype", "float32"), args.device))}  # Of a teacher.
    loading = args.model_init_kwargs = decide_loading(model, args)
    args.resume_from_checkpoint = checkpoint_to_resume(script, args)
    given = start_names(str(model.model_name_or_path), args.generator_name_or_path)
    starts = {name: str(start or given["selector"]) for name, start in given.items()}
    for start in starts.values():
        check_causal(start, loading)  # Before the teacher is asked, which may take long.
    tokenizers = _tokenizers(starts, args)
    peft_config = peft_config_of(model, starts[part])
    for config in (peft_config, adapter_config(starts[part])):
        check_adapter(config)
    start = str(merged_where_needed(starts[part], part, peft_config, args))
    args.trust_remote_code = model.trust_remote_code
    args.model_init_kwargs = None  # TRL would warn that it does not heed them.
    train, held_out = load_datasets(script)

    def prepared(rows: Dataset, name: str, training: bool = False) -> TaughtRows:
        return teach(rows, name, args, tokenizers["generator"], starts["generator"], reading, training)

    def columns(taught: TaughtRows) -> Dataset:
        if part == "generator":
            return answer_dataset(taught, AnswerScorer(tokenizers[part], texts=args.texts), args.num_selected)
        rows = taught.dataset.select_columns(["question", "answers", "candidates"])
        return rows.add_column("selection", taught.selections)

    taught = prepared(train, "train_dataset", training=True)
    warmed = load_model(start, loading)
    check_turns(warmed, tokenizers[part], part)
    stop_where_answers_end(warmed, tokenizers[part])
    if adapted := isinstance(warmed, PeftModel):
        warmed.set_adapter(warmed.active_adapter)  # It was loaded frozen.
    options: dict[str, Any] = {
        "model": keep_gradients(warmed),
        "args": args,
        "train_dataset": columns(taught),
        "eval_dataset": columns(prepared(held_out, "eval_dataset")) if held_out is not None else None,
        "processing_class": tokenizers[part],
        "peft_config": None if adapted else peft_config,
    }
    trainer = _make_trainer(part, args, options)
    trainer.turns = saved_turns(tokenizers)
    trainer.facts = {"part": part, "start": starts[part], "dataset": script.dataset_name}
    trainer.train(args.resume_from_checkpoint)
    save_warm(trainer, loading.get("dtype", "float32"))
    if trainer.is_world_process_zero():
        _write_results(trainer, args, taught, time.monotonic() - started)
    return trainer


def _tokenizers(starts: dict[str, str], args: WarmupConfig) -> dict[str, Tokenizer]:
    """Return both models' tokenizers, with what a checkpoint that the run goes on from says they read."""
    # A model's name says where it stops, before any is loaded.
    named = {name: Start(whole_name(start), start, turns=turns_of_pair(start)) for name, start in starts.items()}
    tokenizers = load_tokenizers(named, args, None, None)
    args.chat_template_path = None  # It is read, and TRL would give the model the other tokenizer's tokens.
    if args.resume_from_checkpoint:
        checkpoint = Path(str(args.resume_from_checkpoint))
        if (saved := read_run_facts(checkpoint).get("turns")) is not None:  # Else it is another run, which is said.
            adopt_turns(tokenizers, saved, f"{checkpoint / RUN_NAME}: turns")
    return tokenizers


def _make_trainer(part: Part, args: WarmupConfig, options: dict[str, Any]) -> WarmupTrainer:
    set_seed(args.seed)  # New adapters are random, and TRL before 1.15 makes them before it seeds anything.
    if part == "generator":
        return WarmupTrainer(**options)
    kwargs: Any = args.policy_kwargs
    policy = load_policy(args.policy, options["processing_class"], args.num_selected, kwargs, args.texts)
    if (kwargs or {}).get("learn_weights"):
        logger.warning(
            "policy_kwargs: a warm-up does not learn the policy's weights (learn_weights); they stay as set"
        )
    return SelectorWarmupTrainer(policy, **options)


def _write_results(trainer: WarmupTrainer, args: WarmupConfig, taught: TaughtRows, seconds: float) -> None:
    losses = [record["loss"] for record in trainer.state.log_history if "loss" in record]
    results = {
        **trainer.facts,
        "teacher": args.teacher,
        "seconds": round(seconds, 1),
        "steps": trainer.state.global_step,
        "seed": args.seed,
        "loss_start": losses[0] if losses else None,
        "loss_end": losses[-1] if losses else None,
        "num_questions": len(taught.selections),
        "num_shorter_than_k": sum(len(selection) < args.num_selected for selection in taught.selections),
        "left_out": taught.left_out,
    }
    path = Path(str(args.output_dir)) / RESULTS_NAME
    write_json(path, results)
    print(f"Model: {args.output_dir}\nResults: {path}")


def save_warm(trainer: WarmupTrainer, dtype: Any) -> None:
    """Write the whole model, its tokenizer and its card; an adapter is kept in `adapter/` and merged."""
    folder = Path(str(trainer.args.output_dir))
    adapted = isinstance(trainer.model, PeftModel)
    trainer.save_model(str(folder / "adapter") if adapted else None)
    trainer.accelerator.wait_for_everyone()
    if adapted and trainer.is_world_process_zero():
        with loading_whole(), replacing_model(folder) as staged:
            save_whole(folder / "adapter", staged, dtype, trainer.args.trust_remote_code)  # type: ignore[attr-defined]
    if not adapted and trainer.is_world_process_zero():
        shutil.rmtree(folder / "adapter", ignore_errors=True)  # Of an earlier warm-up.
    trainer.create_model_card()
    trainer.accelerator.wait_for_everyone()
