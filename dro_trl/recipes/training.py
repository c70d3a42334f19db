"""Recipes: flat YAML whose keys are the fields of TRL's script and model arguments and of `DROConfig`."""

import contextlib
import importlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from traceback import walk_tb
from typing import Any, Literal

import torch
from datasets import Dataset
from pydantic import PositiveInt
from transformers import TrainingArguments
from transformers.utils.import_utils import is_bitsandbytes_available
from trl import ModelConfig, ScriptArguments, get_peft_config, get_quantization_config

from dro_trl.data.load import load_rag_dataset
from dro_trl.evaluation.plots import plot_training
from dro_trl.files.folders import check_unwritten, owned
from dro_trl.files.writing import write_json
from dro_trl.lm.devices import AUTO, describe_training, with_trained_dtype
from dro_trl.models.causal_lm import check_causal
from dro_trl.models.names import check_there
from dro_trl.models.reading import OF_THE_HUB, is_adapter_source
from dro_trl.models.saving import CONFIG_NAME, MODELS
from dro_trl.names import append_folders
from dro_trl.options.masking import masked
from dro_trl.recipes.file import shorten
from dro_trl.recipes.options import TRAIN, Given, read_given
from dro_trl.recipes.rehearsal import rehearse
from dro_trl.rewards.calls import RewardFunc
from dro_trl.rewards.likelihood import AnswerLogLikelihood
from dro_trl.trainer.dataset import naming_sources
from dro_trl.trainer.dro_config import DROConfig
from dro_trl.trainer.dro_trainer import DROTrainer
from dro_trl.trainer.resuming import last_checkpoint
from dro_trl.trainer.starts import adapter_config, start_names


@dataclass
class DROScriptArguments(ScriptArguments):
    """What a recipe says beside the models and the trainer's options."""

    eval_dataset_name: str | None = field(
        default=None, metadata={"help": "File or hub name of the evaluation questions (dataset_test_split of it)."}
    )
    max_train_samples: PositiveInt | None = field(
        default=None, metadata={"help": "Train on the first so many rows only."}
    )
    reward_funcs: list[str] | None = field(
        default=None, metadata={"help": "Dotted paths of reward functions; the answer's log-likelihood where not set."}
    )
    on_bad_row: Literal["raise", "skip"] = field(
        default="raise", metadata={"help": "What to do with a row that breaks the schema."}
    )
    resume: bool = field(default=False, metadata={"help": "Go on from the last checkpoint in output_dir, if any."})


@dataclass
class RecipeModel(ModelConfig):
    """TRL's `ModelConfig`, whose number format is the machine's where none is said."""

    dtype: str | None = field(
        default=AUTO,
        metadata={
            "help": "Of the weights: float32, bfloat16, …; 'auto' is bfloat16 under adapters where the device has it, "
            "else float32, in which weights that are trained themselves keep small updates."
        },
    )
    # A field of TRL's, whose place differs between its versions.
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Run code that comes with a model, as `from_pretrained` does then."}
    )


ADAPTER_KEYS = ("lora_", "use_rslora", "use_dora")
"""Beginnings of the names of keys that say what an adapter is."""


def parse_recipe(arguments: Sequence[str]) -> tuple[DROScriptArguments, DROConfig, RecipeModel]:
    """Parse the recipe of a DRO run; see `read_given` and `make_parts`."""
    script, args, model = make_parts(read_given(arguments, TRAIN), DROConfig)
    return script, args, model


def make_parts(given: Given, options: type[Any], here: bool = True) -> tuple[DROScriptArguments, Any, RecipeModel]:
    """Return what a recipe says as the dataclasses that it is for.

    From now on modules beside the recipe and in the working directory can be imported, after all others: its dotted
    paths may lead there.

    Args:
        given: Of the recipe.
        options: The trainer's, `DROConfig` or `WarmupConfig`.
        here: Whether the recipe is to run on this machine, which must have what it asks for.

    Raises:
        ValueError: If the values cannot stand together; says where they stand.
    """
    folders = [*([given.path.resolve().parent] if given.path else []), Path.cwd()]
    append_folders(folders)
    try:
        return _make_parts(given.values, options, here)
    except Exception as error:  # Of transformers, TRL, PEFT or accelerate, and all of them of these values.
        *_, (frame, _) = walk_tb(error.__traceback__)
        ours = frame.f_globals["__name__"].partition(".")[0] == __name__.partition(".")[0]
        named = "" if ours else _culprits(given.values, options, here)
        raise ValueError(f"{given.source}: {named}{' '.join(str(error).split()) or type(error).__name__}") from error


def _make_parts(
    values: Mapping[str, Any], options: type[Any], here: bool
) -> tuple[DROScriptArguments, Any, RecipeModel]:
    known = {"bf16": None, **values}  # Which asks the device, where a program's options say False.

    def make(part: type[Any]) -> Any:
        return part(**{f.name: known[f.name] for f in fields(part) if f.init and f.name in known})

    parts = make(DROScriptArguments), make(options), make(RecipeModel)
    if here:
        rehearse(*parts[1:])
    return parts


def _culprits(values: Mapping[str, Any], options: type[Any], here: bool) -> str:
    """Name the values without each of which the rest stand together, as libraries often do not."""
    found = []
    for name, value in values.items():
        with contextlib.suppress(Exception):
            _make_parts({other: v for other, v in values.items() if other != name}, options, here)
            found.append(f"{name}={shorten(masked(value, name))}")
    return f"{', '.join(found)}: " if found else ""


def load_reward(path: str, args: DROConfig) -> RewardFunc:
    """Return the reward that a dotted path names, an instance where it is a class.

    Args:
        path: For example `dro_trl.token_f1_reward`.
        args: Says how `AnswerLogLikelihood` reduces tokens and aliases.

    Raises:
        ValueError: If there is no such thing.
    """
    module, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"reward_funcs: {path!r} is not the dotted path of a function ({error}); modules are looked "
            "for beside the recipe, in the working directory and in PYTHONPATH"
        ) from error
    if found is AnswerLogLikelihood:
        return AnswerLogLikelihood(args.likelihood_reduction, args.likelihood_aliases)
    func: RewardFunc = found() if isinstance(found, type) else found
    return func


def _quantization(model: ModelConfig) -> dict[str, Any] | None:
    """Return how the base weights are quantised (QLoRA), as `from_pretrained` takes it."""
    known = model.dtype != AUTO  # Else `decide_loading` says what is computed in.
    config = get_quantization_config(model if known else replace(model, dtype=None))
    if config is None:
        return None
    option = "load_in_4bit" if model.load_in_4bit else "load_in_8bit"
    if not model.use_peft:
        raise ValueError(
            f"{option}: true leaves nothing to train, since quantised weights are frozen; add use_peft: true"
        )
    if not is_bitsandbytes_available():
        raise ImportError(f"{option}: true needs bitsandbytes; pip install 'dro-trl[qlora]'")
    return dict(config.to_dict())


def loading_options(model: RecipeModel, given: Any) -> dict[str, Any]:
    """Return what a recipe says of how models are loaded, as `from_pretrained` takes it; `given` comes first."""
    options = {
        "dtype": model.dtype,
        "revision": model.model_revision,
        "attn_implementation": model.attn_implementation,
        "quantization_config": _quantization(model),
        "trust_remote_code": model.trust_remote_code or None,
    }
    return {**{name: value for name, value in options.items() if value is not None}, **(given or {})}


def decide_loading(model: RecipeModel, args: Any) -> dict[str, Any]:
    """Return `loading_options` with the number format decided, and say where and in what the training will run.

    Raises:
        ValueError: If there is no such format, or DeepSpeed is asked for where nothing launched it.
    """
    if args.deepspeed and "RANK" not in os.environ:
        raise ValueError(
            "deepspeed is for processes that `accelerate launch` starts, with a config such as those in "
            "recipes/accelerate, which need no such line; take it out, or launch the command"
        )
    options = loading_options(model, args.model_init_kwargs)
    decided = with_trained_dtype(options, args.device, model.use_peft)
    if model.dtype == AUTO and model.load_in_4bit:
        decided["quantization_config"] |= {"bnb_4bit_compute_dtype": decided["dtype"]}
    if args.process_index == 0:
        print(f"Training {describe_training(args, decided.get('dtype'))}")
    return decided


def peft_config_of(model: ModelConfig, *starts: str) -> Any | None:
    """Return the PEFT config that a recipe asks for, None where all weights are trained.

    `use_peft: true` without a word on the adapter goes on with what a start has, or makes one of TRL's defaults.
    """
    asked, unsaid = get_peft_config(model), ModelConfig()
    keys = [f.name for f in fields(ModelConfig) if f.name.startswith(ADAPTER_KEYS)]
    if asked is None or any(getattr(model, key) != getattr(unsaid, key) for key in keys):
        return asked
    held = next((config for config in map(adapter_config, starts) if config is not None), None)
    if held is not None:
        held.inference_mode, held.base_model_name_or_path = False, None
    return held or asked


def load_datasets(script: DROScriptArguments) -> tuple[Dataset, Dataset | None]:
    """Return the rows to train on, and those to evaluate on where the recipe names any."""
    train = load_rag_dataset(str(script.dataset_name), split=script.dataset_train_split, on_bad_row=script.on_bad_row)
    if script.max_train_samples is not None:
        train = train.select(range(min(script.max_train_samples, len(train))))
    if not script.eval_dataset_name:
        return train, None
    held_out = load_rag_dataset(
        script.eval_dataset_name, split=script.dataset_test_split, on_bad_row=script.on_bad_row
    )
    return train, held_out


def check_starts(model: RecipeModel, args: Any) -> None:
    """Refuse the name of a model that is nowhere, as `check_there` does."""
    said = loading_options(model, args.model_init_kwargs)
    where = {name: said[name] for name in OF_THE_HUB if name in said}
    starts = {"model_name_or_path": model.model_name_or_path, "generator_name_or_path": args.generator_name_or_path}
    for option, start in starts.items():
        if start and "gguf_file" not in said:
            check_there(option, str(start), **where)


def check_inputs(script: DROScriptArguments, args: DROConfig, model: RecipeModel) -> None:
    """Look at all that a recipe reads, as its run will.

    Raises:
        ValueError: If a row or a file of a model is damaged, or a model is no causal language model.
        OSError: If data or a model is missing.
    """
    load_datasets(script)
    check_starts(model, args)
    for start in start_names(str(model.model_name_or_path), args.generator_name_or_path).values():
        if start:
            is_adapter_source(str(start))
            check_causal(str(start), loading_options(model, args.model_init_kwargs))


def checkpoint_to_resume(script: DROScriptArguments, args: TrainingArguments) -> str | None:
    """Return the checkpoint that a run goes on from, where the recipe asks for it and there is one."""
    if script.resume and args.resume_from_checkpoint is None:
        last = last_checkpoint(Path(str(args.output_dir)))
        return str(last) if last else None
    return args.resume_from_checkpoint


@contextlib.contextmanager
def own_output(
    args: TrainingArguments, starts: Mapping[str, str | None], written: Sequence[str], signs: Sequence[str]
) -> Iterator[None]:
    """Hold the lock of `args.output_dir`, and refuse what would replace a file that no earlier run there wrote.

    Args:
        args: Of the run; its first process holds the lock.
        starts: Models that are read, by their options.
        written: As in `check_unwritten`.
        signs: As in `check_unwritten`; a checkpoint is one as well.

    Raises:
        ValueError: If a model would be replaced by what is learnt from it.
        FileExistsError: If a file or folder that is to be written is there and is not this program's.
        BlockingIOError: If another process writes there.
    """
    folder = Path(str(args.output_dir))
    for option, start in starts.items():
        if start and Path(start).resolve() in [path.resolve() for path in (folder, *(folder / n for n in written))]:
            raise ValueError(
                f"output_dir {folder} is where the model is read from ({option} {start}), which would be replaced; "
                "give another folder"
            )
    check_unwritten(folder, written, [*signs, "checkpoint-*"])
    with owned(folder, args.process_index == 0):
        yield


def run_recipe(script: DROScriptArguments, args: DROConfig, model: RecipeModel) -> DROTrainer:
    """Train as a recipe says, and save the pair, its curves and `train_results.json` in `args.output_dir`."""
    starts = {"model_name_or_path": model.model_name_or_path, "generator_name_or_path": args.generator_name_or_path}
    check_starts(model, args)
    written = (*MODELS, CONFIG_NAME, "README.md", "train_results.json")
    with own_output(args, starts, written, (CONFIG_NAME,)):
        return _run_recipe(script, args, model)


def _run_recipe(script: DROScriptArguments, args: DROConfig, model: RecipeModel) -> DROTrainer:
    args.model_init_kwargs = decide_loading(model, args)
    train, held_out = load_datasets(script)
    starts = start_names(str(model.model_name_or_path), args.generator_name_or_path)
    with naming_sources(train_dataset=script.dataset_name, eval_dataset=script.eval_dataset_name):
        trainer = DROTrainer(
            model=str(model.model_name_or_path),
            args=args,
            train_dataset=train,
            eval_dataset=held_out,
            reward_funcs=[load_reward(path, args) for path in script.reward_funcs] if script.reward_funcs else None,
            peft_config=peft_config_of(model, *(str(start) for start in starts.values() if start)),
        )
    trainer.dataset_names = {"train": script.dataset_name, "eval": script.eval_dataset_name}
    train_and_save(trainer, checkpoint_to_resume(script, args))
    return trainer


def peak_device_memory(device: torch.device) -> int:
    """Return the most bytes of tensors that this process has had on an accelerator at once; 0 on a CPU."""
    return 0 if device.type == "cpu" else int(torch.accelerator.max_memory_allocated(device))


def train_and_save(trainer: DROTrainer, checkpoint: str | None = None) -> Path:
    """Train, then write the pair, `trainer_state.json`, `train_results.json` and `training.png`.

    Returns:
        The path of `train_results.json`: run time, optimizer steps and the means over the last logged steps.
    """
    started = time.monotonic()
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model()
    folder = Path(str(trainer.args.output_dir))
    path = folder / "train_results.json"
    if trainer.is_world_process_zero():
        trainer.save_state()
        history = trainer.state.log_history
        last = next((record for record in reversed(history) if "reward" in record), {})
        seconds = round(time.monotonic() - started, 1)
        results = {"seconds": seconds, "steps": trainer.state.global_step, "seed": trainer.args.seed, **last}
        used = {"peak_device_memory_bytes": peak_device_memory(trainer.args.device)}
        write_json(path, {**results, **used, "place": describe_training(trainer.args)})
        plots = plot_training(history, folder)
        print(f"Models: {folder}\nResults: {path}\nPlots: {', '.join(map(str, plots))}")
    return path
