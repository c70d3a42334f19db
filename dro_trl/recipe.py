"""Recipes: flat YAML whose keys are the fields of TRL's script and model arguments and of `DROConfig`."""

import argparse
import contextlib
import importlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from traceback import walk_tb
from typing import Any, Literal, NoReturn

import torch
from datasets import Dataset
from transformers import TrainingArguments
from transformers.utils.import_utils import is_bitsandbytes_available
from trl import ModelConfig, ScriptArguments, TrlParser, get_peft_config, get_quantization_config

from dro_trl.atomic_write import write_json
from dro_trl.checkpointing import CONFIG_NAME, MODELS
from dro_trl.data.load import load_rag_dataset
from dro_trl.dro_config import DROConfig
from dro_trl.dro_trainer import DROTrainer
from dro_trl.evaluation.plots import plot_training
from dro_trl.folders import check_unwritten, owned
from dro_trl.lm.devices import AUTO, describe_training, with_trained_dtype
from dro_trl.masking import revealed
from dro_trl.models.causal_lm import check_causal
from dro_trl.models.names import check_there
from dro_trl.models.reading import OF_THE_HUB, is_adapter_source
from dro_trl.module_paths import append_folders
from dro_trl.recipe_file import find_recipe, read_recipe, refuse_unknown
from dro_trl.resuming import last_checkpoint
from dro_trl.reward_calls import RewardFunc
from dro_trl.rewards.likelihood import AnswerLogLikelihood
from dro_trl.starts import adapter_config, start_names
from dro_trl.training_data import naming_sources


@dataclass
class DROScriptArguments(ScriptArguments):
    """What a recipe says beside the models and the trainer's options."""

    eval_dataset_name: str | None = field(
        default=None, metadata={"help": "File or hub name of the evaluation questions (dataset_test_split of it)."}
    )
    max_train_samples: int | None = field(default=None, metadata={"help": "Train on the first so many rows only."})
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


PARTS = (DROScriptArguments, DROConfig, RecipeModel)
UNUSED = {"dataset_config", "dataset_streaming", "ignore_bias_buffers"}
"""Fields of TRL's that nothing here heeds; a recipe that sets one is refused, as with any unknown key."""

ADAPTER_KEYS = ("lora_", "use_rslora", "use_dora")
"""Beginnings of the names of keys that say what an adapter is."""


def known_keys(parts: Sequence[type[Any]] = PARTS, unused: Set[str] = UNUSED) -> set[str]:
    """Return every key that a recipe of these parts may have."""
    return {f.name for part in parts for f in fields(part) if f.init} - unused | {"env"}


class _Parser(TrlParser):
    """TRL's parser, without a page of all options before what is wrong."""

    def error(self, message: str) -> NoReturn:
        """Raise what is wrong, where argparse prints its usage and exits."""
        raise argparse.ArgumentError(None, message)

    def set_values(self, recipe: Mapping[str, Any]) -> None:
        """Take the recipe's values as defaults; one value where several may stand is a list of it, as when typed."""
        several = {action.dest for action in self._actions if action.nargs == "+"}
        self.set_defaults_with_config(
            **{k: [v] if k in several and isinstance(v, str | int | float) else v for k, v in recipe.items()}
        )


def _read_values(
    parts: Sequence[type[Any]], recipe: Mapping[str, Any], arguments: Sequence[str], source: str
) -> tuple[Any, ...]:
    parser = _Parser(parts)  # type: ignore[arg-type]
    try:
        parser.set_values(recipe)
        return tuple(parser.parse_args_into_dataclasses(arguments, return_remaining_strings=True))
    except argparse.ArgumentError as error:
        raise ValueError(f"{source}: {error}") from error
    except ValueError as error:
        *_, (frame, _) = walk_tb(error.__traceback__)
        if str(frame.f_globals["__name__"]).partition(".")[0] == __name__.partition(".")[0]:
            raise
        raise ValueError(f"{source}: {error}") from error  # Those of transformers do not say where the value stands.


def parse_recipe(arguments: Sequence[str]) -> tuple[DROScriptArguments, DROConfig, RecipeModel]:
    """Parse the recipe of a DRO run; see `parse_parts`."""
    script, args, model = parse_parts(arguments, PARTS, UNUSED)
    return script, args, model


def parse_parts(
    arguments: Sequence[str], parts: Sequence[type[Any]], unused: Set[str], kind: str = ""
) -> tuple[Any, ...]:
    """Parse `--config recipe.yaml --name value …`.

    From now on modules beside the recipe and in the working directory can be imported, after all others: its dotted
    paths may lead there.

    Args:
        arguments: Of the command line.
        parts: Dataclasses whose fields are the recipe's keys: script arguments, training options, `ModelConfig`.
        unused: Fields that nothing heeds, which are refused.
        kind: Folder of `recipes/` for recipes of these parts.

    Raises:
        ValueError: If a key is unknown (the nearest known one is named), or a required one is missing.
        FileNotFoundError: If the recipe does not exist.
    """
    split = (a.split("=", 1) if a.startswith("--config=") else [a] for a in arguments)
    arguments = [part for parts in split for part in parts]
    known = known_keys(parts, unused)
    recipe: dict[str, Any] = {}
    path: Path | None = None
    folders = [Path.cwd()]
    if "--config" in arguments:
        at = arguments.index("--config")
        if at + 1 == len(arguments) or arguments[at + 1].startswith("--"):
            raise ValueError("--config names no file; write --config recipe.yaml")
        path = find_recipe(arguments[at + 1], kind)
        recipe = revealed(read_recipe(path), str(path))
        refuse_unknown(recipe, known, str(path))
        folders.insert(0, path.resolve().parent)
        del arguments[at : at + 2]
    given = [a[2:].partition("=")[0].replace("-", "_") for a in arguments if a.startswith("--")]
    refuse_unknown(given, known - {"env"} | {f"no_{name}" for name in known}, "the command line")
    append_folders(folders)
    os.environ.update({name: str(value) for name, value in recipe.pop("env", {}).items()})
    recipe.setdefault("bf16", None)  # Which asks the device, where a program's options say False.
    source = f"{path} with the command line" if path else "the command line"
    script, args, model, rest = _read_values(parts, recipe, arguments, source)
    if rest:
        raise ValueError(f"the command line: {rest[0]!r} belongs to no option; name a recipe with --config")
    for name, value in (("dataset_name", script.dataset_name), ("model_name_or_path", model.model_name_or_path)):
        if not value:
            raise ValueError(f"{name} is not set; add it to the recipe, or pass --{name}")
    return script, args, model


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
        ValueError: If there is no such format.
    """
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
