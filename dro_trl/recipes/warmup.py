"""What `dro-trl warmup` does: a recipe becomes a warmed model."""

import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from datasets import Dataset
from peft import PeftModel
from transformers import set_seed

from dro_trl.files.writing import write_json
from dro_trl.lm.devices import choose_dtype, name_of
from dro_trl.lm.sharding import loading_whole
from dro_trl.lm.tokens import Tokenizer
from dro_trl.lm.turns import adopt_turns, check_turns, saved_turns, stop_where_answers_end
from dro_trl.models.answers import AnswerScorer
from dro_trl.models.causal_lm import check_causal
from dro_trl.models.loading import Start, load_model
from dro_trl.models.merging import save_whole
from dro_trl.models.quantised import keep_gradients
from dro_trl.models.reading import whole_name
from dro_trl.models.replacing import replacing_model
from dro_trl.policies.base import load_policy
from dro_trl.recipes.arguments import DROScriptArguments, RecipeModel, make_parts
from dro_trl.recipes.building import (
    check_starts,
    checkpoint_to_resume,
    decide_loading,
    load_datasets,
    loading_options,
    own_output,
    peft_config_of,
)
from dro_trl.recipes.options import WARMUP, read_given
from dro_trl.trainer.building import load_tokenizers
from dro_trl.trainer.dataset import naming_sources
from dro_trl.trainer.refused_options import check_adapter
from dro_trl.trainer.resuming import RUN_NAME, read_run_facts
from dro_trl.trainer.starts import adapter_config, merged_where_needed, start_names, turns_of_pair
from dro_trl.trainer.warmup_config import WarmupConfig
from dro_trl.trainer.warmup_teachers import TaughtRows, teach
from dro_trl.trainer.warmup_trainer import SelectorWarmupTrainer, WarmupTrainer, answer_dataset, logger

Part = Literal["selector", "generator"]
RESULTS_NAME = "warmup_results.json"


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
    train, held_out = load_datasets(script, args)

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
