"""Recipes: flat YAML whose keys are the fields of TRL's script and model arguments and of `DROConfig`."""

import time
from pathlib import Path

import torch

from dro_trl.evaluation.plots import plot_training
from dro_trl.files.writing import write_json
from dro_trl.lm.devices import describe_training
from dro_trl.models.saving import CONFIG_NAME, MODELS
from dro_trl.recipes.arguments import DROScriptArguments, RecipeModel
from dro_trl.recipes.building import (
    check_starts,
    checkpoint_to_resume,
    decide_loading,
    load_datasets,
    load_reward,
    own_output,
    peft_config_of,
)
from dro_trl.trainer.dataset import naming_sources
from dro_trl.trainer.dro_config import DROConfig
from dro_trl.trainer.dro_trainer import DROTrainer
from dro_trl.trainer.starts import start_names


def run_recipe(script: DROScriptArguments, args: DROConfig, model: RecipeModel) -> DROTrainer:
    """Train as a recipe says, and save the pair, its curves and `train_results.json` in `args.output_dir`."""
    starts = {"model_name_or_path": model.model_name_or_path, "generator_name_or_path": args.generator_name_or_path}
    check_starts(model, args)
    written = (*MODELS, CONFIG_NAME, "README.md", "train_results.json")
    with own_output(args, starts, written, (CONFIG_NAME,)):
        return _run_recipe(script, args, model)


def _run_recipe(script: DROScriptArguments, args: DROConfig, model: RecipeModel) -> DROTrainer:
    args.model_init_kwargs = decide_loading(model, args)
    train, held_out = load_datasets(script, args)
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
