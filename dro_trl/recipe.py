"""Recipes: flat YAML whose keys are the fields of TRL's script and model arguments and of `DROConfig`."""

import importlib
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from transformers.utils.import_utils import is_bitsandbytes_available
from trl import ModelConfig, ScriptArguments, TrlParser, get_peft_config, get_quantization_config

from dro_trl.atomic_write import write_json
from dro_trl.data.load import load_rag_dataset
from dro_trl.dro_config import DROConfig
from dro_trl.dro_trainer import DROTrainer
from dro_trl.evaluation.plots import plot_training
from dro_trl.recipe_file import read_recipe, refuse_unknown
from dro_trl.resuming import last_checkpoint
from dro_trl.reward_calls import RewardFunc
from dro_trl.rewards.likelihood import AnswerLogLikelihood


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


PARTS = (DROScriptArguments, DROConfig, ModelConfig)
UNUSED = {"dataset_config", "dataset_streaming", "ignore_bias_buffers"}
"""Fields of TRL's that nothing here heeds; a recipe that sets one is refused, as with any unknown key."""


def known_keys() -> set[str]:
    """Return every key that a recipe may have."""
    return {f.name for part in PARTS for f in fields(part) if f.init} - UNUSED | {"env"}


def parse_recipe(arguments: Sequence[str]) -> tuple[DROScriptArguments, DROConfig, ModelConfig]:
    """Parse `--config recipe.yaml --name value …`.

    From now on modules beside the recipe and in the working directory can be imported, after all others: its dotted
    paths may lead there.

    Raises:
        ValueError: If a key is unknown (the nearest known one is named), or a required one is missing.
        FileNotFoundError: If the recipe does not exist.
    """
    split = (a.split("=", 1) if a.startswith("--config=") else [a] for a in arguments)
    arguments = [part for parts in split for part in parts]
    known = known_keys()
    recipe: dict[str, Any] = {}
    folders = [Path.cwd()]
    if "--config" in arguments:
        at = arguments.index("--config")
        if at + 1 == len(arguments) or arguments[at + 1].startswith("--"):
            raise ValueError("--config names no file; write --config recipe.yaml")
        recipe = read_recipe(Path(arguments[at + 1]))
        refuse_unknown(recipe, known, arguments[at + 1])
        folders.insert(0, Path(arguments[at + 1]).resolve().parent)
        del arguments[at : at + 2]
    given = [a[2:].partition("=")[0].replace("-", "_") for a in arguments if a.startswith("--")]
    refuse_unknown(given, known - {"env"} | {f"no_{name}" for name in known}, "the command line")
    sys.path.extend(str(folder) for folder in folders if str(folder) not in sys.path)
    os.environ.update({name: str(value) for name, value in recipe.pop("env", {}).items()})
    parser = TrlParser(PARTS)  # type: ignore[arg-type]
    parser.set_defaults_with_config(**recipe)
    script, args, model, rest = parser.parse_args_into_dataclasses(arguments, return_remaining_strings=True)
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
    config = get_quantization_config(model)
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


def run_recipe(script: DROScriptArguments, args: DROConfig, model: ModelConfig) -> DROTrainer:
    """Train as a recipe says, and save the pair, its curves and `train_results.json` in `args.output_dir`."""
    options = {
        "dtype": model.dtype,
        "revision": model.model_revision,
        "attn_implementation": model.attn_implementation,
        "quantization_config": _quantization(model),
    }
    set_options = {name: value for name, value in options.items() if value is not None}
    args.model_init_kwargs = {**set_options, **(args.model_init_kwargs or {})}  # type: ignore[dict-item]
    train = load_rag_dataset(str(script.dataset_name), split=script.dataset_train_split, on_bad_row=script.on_bad_row)
    if script.max_train_samples is not None:
        train = train.select(range(min(script.max_train_samples, len(train))))
    held_out = None
    if script.eval_dataset_name:
        held_out = load_rag_dataset(
            script.eval_dataset_name, split=script.dataset_test_split, on_bad_row=script.on_bad_row
        )
    trainer = DROTrainer(
        model=str(model.model_name_or_path),
        args=args,
        train_dataset=train,
        eval_dataset=held_out,
        reward_funcs=[load_reward(path, args) for path in script.reward_funcs] if script.reward_funcs else None,
        peft_config=get_peft_config(model),
    )
    checkpoint = args.resume_from_checkpoint
    if script.resume and checkpoint is None:
        last = last_checkpoint(Path(str(args.output_dir)))
        checkpoint = str(last) if last else None
    train_and_save(trainer, checkpoint)
    return trainer


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
        write_json(path, {"seconds": seconds, "steps": trainer.state.global_step, "seed": trainer.args.seed, **last})
        plots = plot_training(history, folder)
        print(f"Models: {folder}\nResults: {path}\nPlots: {', '.join(map(str, plots))}")
    return path
