"""What a recipe's values mean: rewards, datasets, how models are loaded, adapters, where to go on."""

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import TrainingArguments
from transformers.utils.import_utils import is_bitsandbytes_available
from trl import ModelConfig, get_peft_config, get_quantization_config

from dro_trl.data.given import as_dataset
from dro_trl.data.load import load_rag_dataset, stream_rag_dataset
from dro_trl.files.folders import check_unwritten, owned
from dro_trl.lm.devices import AUTO, describe_training, with_trained_dtype
from dro_trl.models.causal_lm import check_causal
from dro_trl.models.names import check_there
from dro_trl.models.reading import OF_THE_HUB, is_adapter_source
from dro_trl.names import import_dotted
from dro_trl.recipes.arguments import DROScriptArguments, RecipeModel
from dro_trl.rewards.calls import RewardFunc
from dro_trl.rewards.likelihood import AnswerLogLikelihood
from dro_trl.trainer.dataset import rows_of_run
from dro_trl.trainer.dro_config import DROConfig
from dro_trl.trainer.resuming import last_checkpoint
from dro_trl.trainer.starts import adapter_config, start_names

LOOKED_AT = 8
"""Rows of a stream that are looked at before a run."""
ADAPTER_KEYS = ("lora_", "use_rslora", "use_dora")
"""Beginnings of the names of keys that say what an adapter is."""


def load_reward(path: str, args: DROConfig) -> RewardFunc:
    """Return the reward that a dotted path names, an instance where it is a class.

    Args:
        path: For example `dro_trl.token_f1_reward`.
        args: Says how `AnswerLogLikelihood` reduces tokens and aliases.

    Raises:
        ValueError: If there is no such thing.
    """
    hint = "modules are looked for beside the recipe, in the working directory and in PYTHONPATH"
    found = import_dotted(path, f"reward_funcs: {path!r} is not the dotted path of a function", hint)
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


def load_datasets(
    script: DROScriptArguments, args: Any, most_streamed: int | None = None
) -> tuple[Dataset, Dataset | None]:
    """Return the rows to train on, and those to evaluate on where the recipe names any.

    Args:
        script: Names them.
        args: Say how many are read of a stream.
        most_streamed: How many at most.
    """
    name, split = str(script.dataset_name), script.dataset_train_split
    if script.dataset_streaming:
        rows = rows_of_run(args, name)
        rows = rows if most_streamed is None else min(rows, most_streamed)
        train = as_dataset(stream_rag_dataset(name, split), name, rows, script.on_bad_row)
    else:
        train = load_rag_dataset(name, split=split, on_bad_row=script.on_bad_row)
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
    """Look at all that a recipe reads, as its run will; of a stream at its first rows, for the run fetches it again.

    Raises:
        ValueError: If a row or a file of a model is damaged, or a model is no causal language model.
        OSError: If data or a model is missing.
    """
    load_datasets(script, args, LOOKED_AT)
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
