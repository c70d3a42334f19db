"""Running a study row by row, each in processes of its own, and going on where it was interrupted."""

import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers.trainer import TRAINER_STATE_NAME

from dro_trl.files.folders import locked
from dro_trl.files.writing import load_object, write_json
from dro_trl.losses.options import selections_read
from dro_trl.options.masking import masked
from dro_trl.recipes.arguments import parse_recipe
from dro_trl.recipes.file import names_code
from dro_trl.recipes.processes import run_command
from dro_trl.recipes.secrets import write_recipe
from dro_trl.recipes.studies.parsing import check_inputs_of
from dro_trl.recipes.studies.plan import Row, Study, plan_rows
from dro_trl.recipes.studies.progress import showing_progress
from dro_trl.recipes.studies.tracking import environment, tracking
from dro_trl.records import differences, file_digest
from dro_trl.trainer.resuming import last_checkpoint

PLAN_NAME, RESULT_NAME = "plan.json", "row.json"
_REMEDY = "delete the folder of its row to have that run again"


@dataclass(frozen=True)
class FinishedRows:
    """What the `row.json` of each finished row holds, in the order of `plan_rows`.

    A file holds the predictions of its row, and there are as many files as methods times seeds: each pass over them
    reads one at a time, and keeps none.
    """

    paths: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for path in self.paths:
            yield load_object(path, _REMEDY)


def run_study(study: Study) -> FinishedRows:
    """Train and evaluate every row that is not finished yet, one at a time.

    A row's folder holds its `recipe.yaml`, `plan.json` (what the row is of), `model/`, `train.log`, `evaluate.log`,
    `evaluation/` and, once it is finished, `row.json`, by which it is recognised.

    Args:
        study: What to run.

    Raises:
        ValueError: If a row in the folder was made under another recipe or from other data, or if data, a model or a
            finished row that one reads is damaged; nothing is run then.
        OSError: Likewise, if data or a model is missing.
        RuntimeError: If a row's process fails. Those before it are kept.
        BlockingIOError: If a row is being run by others, or by a process that was left when its study was killed.
    """
    rows = plan_rows(study)
    plans = [describe_row(study, row) for row in rows]
    for row, plan in zip(rows, plans, strict=True):
        check_same_row(row, plan)
    check_inputs_of(row for row in rows if not (row.folder / RESULT_NAME).is_file())
    results = FinishedRows(tuple(row.folder / RESULT_NAME for row in rows))
    for path in filter(Path.is_file, results.paths):
        load_object(path, _REMEDY)
    for number, (row, plan) in enumerate(zip(rows, plans, strict=True)):
        if not (finished := results.paths[number]).is_file():
            print(f"[{number + 1}/{len(rows)}] {row.method}, seed {row.seed}: {row.folder}", flush=True)
            with locked(row.folder) as lock:
                write_json(finished, _run_row(study, row, plan, number == 0, lock), allow_nan=False)
    return results


def finished_rows(study: Study) -> FinishedRows:
    """Return the results of the rows that are finished, without running any.

    Raises:
        ValueError: If one was made under another recipe, or if the first row, which has the baselines, is missing.
    """
    rows = plan_rows(study)
    for row in rows:
        check_same_row(row, describe_row(study, row))
    found = [path for row in rows if (path := row.folder / RESULT_NAME).is_file()]
    if not found or found[0].parent != rows[0].folder:
        raise ValueError(
            f"{rows[0].folder} holds no {RESULT_NAME}: the first row, which every report needs, is not run"
        )
    return FinishedRows(tuple(found))


def describe_row(study: Study, row: Row) -> dict[str, Any]:
    """Return what a row is of: its recipe, its evaluation and digests of its data, as plain JSON."""
    recipe = {name: value for name, value in row.recipe.items() if name != "output_dir"}  # Folders may be moved.
    sources = {"dataset_name": str(recipe.get("dataset_name")), "eval_dataset_name": study.eval_dataset_name}
    # A folder, or a dataset on the hub, has no digest.
    data = {name: file_digest(Path(s)) if Path(s).is_file() else None for name, s in sources.items()}
    plan = {"method": row.method, "seed": row.seed, "recipe": masked(recipe)}
    plan |= {"evaluation": study.evaluation, "data": data}
    plain: dict[str, Any] = json.loads(json.dumps(plan, default=str))
    return plain


def check_same_row(row: Row, plan: dict[str, Any]) -> None:
    """Compare what a row's folder is of with what is to be run.

    Raises:
        ValueError: If they differ; says in what, with both values.
    """
    path = row.folder / PLAN_NAME
    if not path.is_file():
        return
    differing = differences(masked(load_object(path, _REMEDY)), plan)  # Earlier versions hid nothing.
    if differing:
        raise ValueError(
            f"{row.folder} was made under another recipe: {'; '.join(differing)}. Set it back, choose another "
            "output_dir, or delete that folder to run the row again"
        )


def _run_row(study: Study, row: Row, plan: dict[str, Any], with_start: bool, lock: int) -> dict[str, Any]:
    write_json(row.folder / PLAN_NAME, plan)
    recipe, model, evaluation = (row.folder / name for name in ("recipe.yaml", "model", "evaluation"))
    os.environ.update(write_recipe(row.recipe, recipe))  # Its secrets, for the processes that read it.
    resumed = last_checkpoint(model) is not None
    named, variables = tracking(study, row)
    command = ["train", "--config", str(recipe), "--resume", *(f"--{name}={value}" for name, value in named.items())]
    with environment(variables):
        training = _run_once(row.folder / "train", command, lock, resumed)
    options = {
        "model_name_or_path": model,
        "dataset_name": study.eval_dataset_name,
        "dataset_test_split": study.dataset_test_split,
        "output_dir": evaluation,
        "max_new_tokens": study.max_new_tokens,
        "per_device_eval_batch_size": study.per_device_eval_batch_size,
        "device": study.eval_device,
        "dtype": study.eval_dtype,
        **({"max_eval_samples": study.max_eval_samples} if study.max_eval_samples else {}),
    }
    arguments = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    if names_code(row.recipe):  # The study's own recipe names it.
        arguments.append("--trust_remote_code")
    # The untrained pair and the retriever's order do not depend on the row: the first row evaluates them for all.
    command = ["evaluate", *arguments, "--start" if with_start else "--no_start"]
    evaluated = _run_once(row.folder / "evaluate", command, lock)
    results = load_object(evaluation / "results.json", _REMEDY, "systems", "predictions")
    state = load_object(model / TRAINER_STATE_NAME, _REMEDY, "global_step", "log_history", "num_input_tokens_seen")
    trained = load_object(model / "train_results.json", _REMEDY, "seconds", "peak_device_memory_bytes")
    _, args, _ = parse_recipe(["--config", str(recipe)])
    questions = state["global_step"] * args.train_batch_size * args.gradient_accumulation_steps // args.num_iterations
    training |= {
        "steps": state["global_step"],
        "questions_drawn": questions,
        "selections_drawn": questions * selections_read(args.loss_type, args.num_selections, args.train_generator),
        "tokens_read": state["num_input_tokens_seen"],
        "peak_device_memory_bytes": trained["peak_device_memory_bytes"],
        "place": trained.get("place"),
        "loop_seconds": trained["seconds"],
    }
    print(f"  trained in {training['seconds']:.0f} s, evaluated in {evaluated['seconds']:.0f} s", flush=True)
    return {
        **plan,
        "training": training,
        "evaluating": evaluated,
        "log_history": _finite(state["log_history"]),
        "systems": results["systems"],
        "predictions": results["predictions"],
    }


def _run_once(stem: Path, arguments: list[str], lock: int, resumed: bool = False) -> dict[str, Any]:
    """Run a command unless its record is there already, and write the record."""
    record = stem.with_name(f"{stem.name}.json")
    if not record.is_file():
        log = stem.with_name(f"{stem.name}.log")
        with showing_progress(log, "training" if arguments[0] == "train" else "evaluation"):
            used = run_command(arguments, log, lock)
        write_json(record, {**used, "resumed": resumed})
    return load_object(record, _REMEDY)


def _finite(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Take values that are not finite, such as a NaN gradient norm, out of records: strict JSON has none."""
    return [{k: v for k, v in record.items() if not isinstance(v, float) or math.isfinite(v)} for record in records]
