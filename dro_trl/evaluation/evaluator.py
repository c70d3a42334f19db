"""Running systems over the same questions."""

from collections.abc import Callable, Collection, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from dro_trl.evaluation.comparison import EvaluationReport, compare
from dro_trl.evaluation.groups import column_of
from dro_trl.evaluation.parts import Parts, choose_place, describe_evaluation, launched_processes
from dro_trl.evaluation.scores import Prediction, check_extra
from dro_trl.evaluation.systems import System, Task, find_systems
from dro_trl.lm.devices import AUTO, name_of
from dro_trl.models.files import check_model_files
from dro_trl.models.names import pair_folder
from dro_trl.models.saving import MODELS, read_config, start_paths
from dro_trl.pipeline import RAGPipeline
from dro_trl.policies.randomness import shuffled
from dro_trl.types import Question, Selection


def predict(
    pipeline: RAGPipeline,
    rows: Sequence[Question],
    selections: Sequence[Selection],
    batch_size: int = 8,
    max_new_tokens: int = 32,
) -> list[Prediction]:
    """Answer questions from the passages that a system chose.

    Args:
        pipeline: The pair whose generator answers.
        rows: Questions with candidates, answers and optionally gold passages, as `RAGPipeline.prepare` returns them.
        selections: For each row, the passages that the generator reads.
        batch_size: Questions in a batch; in float32 the result does not depend on it.
        max_new_tokens: Longest answer, in tokens.

    Returns:
        One prediction a row, in the order of the rows; `ranking` holds the passages that the generator read.
    """
    answers = pipeline.answer(rows, selections, batch_size, max_new_tokens)
    return [
        Prediction(
            question=row["question"],
            answers=row["answers"],
            gold_ids=row.get("gold_ids"),
            ranking=[row["candidates"][i]["id"] for i in selection],
            answer=answer,
        )
        for row, selection, answer in zip(rows, selections, answers, strict=True)
    ]


TaskOf = Callable[[int, int], Task]
"""Makes the task of the rows from one number to another."""
_KEPT_TASKS = 64
"""Parts whose rows are kept as the models read them."""
Answered = dict[tuple[int, tuple[int, ...]], Prediction]
"""What a generator wrote, by the number of the row and the passages that it read."""
DEFAULT_SYSTEMS = ("start, retriever order", "start", "trained, retriever order", "trained")
"""The pair before and after training; the generator reads the retriever's first K passages, or the selector's."""


def evaluate_pair(
    folder: str | Path,
    rows: Sequence[Question],
    systems: Collection[str] = DEFAULT_SYSTEMS,
    *,
    ks: Sequence[int] | None = None,
    seed: int = 0,
    batch_size: int = 8,
    max_new_tokens: int = 32,
    extra_metrics: Collection[str] = (),
    by: str | None = None,
    num_selections: int = 16,
    shuffle_candidates: int | None = None,
    progress_dir: str | Path | None = None,
    **model_kwargs: Any,
) -> tuple[EvaluationReport, dict[str, list[Prediction]]]:
    """Compare a trained pair with other systems on the same questions, which the launched processes share.

    Args:
        folder: What `DROTrainer` saved, or its name on a hub (with `revision` among the options).
        rows: Questions with candidates, answers and optionally gold passages.
        systems: Which of `dro_trl.evaluation.systems.SYSTEMS` to run, `"trained"` among them, the rest as baselines.
        ks: Depths of recall and nDCG; 1 and K where None.
        seed: Of the bootstrap, and of what systems draw.
        batch_size: Questions in a batch; in float32 the result does not depend on it.
        max_new_tokens: Longest answer, in tokens.
        extra_metrics: As `extra` of `score_predictions`.
        by: Column of the rows; the report is of each group with one value there too.
        num_selections: M, how many selections `"oracle"` draws.
        shuffle_candidates: Seed of a random order in which each question's candidates are shown; as given where None.
        progress_dir: Where what is finished is kept as it is found, so that the same call goes on from it after an
            interruption; `dro_trl.evaluation.parts.discard` deletes it. Not kept where None.
        **model_kwargs: For `RAGPipeline.from_pretrained`, such as `device`, `dtype` and `window_size`. With
            `generator_url` the trained generator answers by a server; the start's is loaded here.

    Returns:
        The report, and each system's predictions, on every process.

    Raises:
        ValueError: As `check_evaluation` and `column_of`, or if a model cannot be loaded.
        OSError: As `check_evaluation`.
    """
    folder = pair_folder(folder, model_kwargs.pop("revision", None))
    found = check_evaluation(folder, systems, extra_metrics)
    column = None if by is None else column_of(rows, by)
    of_server = {name: model_kwargs[name] for name in ("generator_url", "generator_model") if model_kwargs.get(name)}
    _check_local(found, of_server)
    options: dict[str, Any] = {"seed": seed, "batch_size": batch_size, "max_new_tokens": max_new_tokens}
    options |= {"num_selections": num_selections, "shuffle_candidates": shuffle_candidates}
    parts = _open_parts(folder, rows, progress_dir, options, model_kwargs)
    selections: dict[str, list[Selection]] = {}
    predictions: dict[str, list[Prediction]] = {}
    for pair, load in (("start", RAGPipeline.from_start), ("trained", RAGPipeline.from_pretrained)):
        if not any(pair in (system.chooser, system.generator) for system in found.values()):
            continue
        local = {name: value for name, value in model_kwargs.items() if not name.startswith("generator_")}
        pipeline = load(folder, **local, **(of_server if pair == "trained" else {}))
        ks = ks or sorted({1, pipeline.policy.num_selected})
        names = [f"{name}: selections" for name, system in found.items() if system.chooser == pair]
        names += [f"{name}: answers" for name, system in found.items() if system.generator == pair]
        if not parts.begun(names):  # Else the same rows were looked at when that began.
            pipeline.check(rows)
        task_of = _tasks(pipeline, rows, shuffle_candidates, batch_size, num_selections, seed)
        _run_systems(found, pair, task_of, parts, selections, predictions, max_new_tokens)
        del pipeline, task_of  # Before the next pair is loaded.
    against = partial(compare, target="trained", baselines=[name for name in predictions if name != "trained"])
    return against(predictions, ks=ks or [], seed=seed, extra_metrics=extra_metrics, by=column), predictions


def check_evaluation(folder: Path, systems: Collection[str], extra_metrics: Collection[str]) -> dict[str, System]:
    """Return the systems of these names, after a look at all that an evaluation of them reads.

    Args:
        folder: Of the pair.
        systems: As in `evaluate_pair`.
        extra_metrics: As in `evaluate_pair`.

    Raises:
        ValueError: If a system or an extra metric is unknown, `"trained"` is not among the systems, or a file of the
            pair is damaged.
        OSError: If a file or folder of the pair, or of its start where that is evaluated, is missing.
    """
    check_extra(extra_metrics)
    found = find_systems(systems)
    if "trained" not in found:
        raise ValueError(f"systems={list(systems)} must hold 'trained', which the others are compared with")
    config = read_config(folder)
    for name in MODELS:
        check_model_files(folder / name, saved=True)
    if any("start" in (system.chooser, system.generator) for system in found.values()):
        start_paths(folder, config)
    return found


def _check_local(found: dict[str, System], of_server: dict[str, Any]) -> None:
    """Refuse systems that ask a generator how likely answers are, where it is behind a server."""
    if of_server and (asking := [name for name, system in found.items() if system.reads_answer]):
        raise ValueError(
            f"systems={asking} ask the generator how likely answers are, which needs it here; leave them out, or "
            "generator_url"
        )


def _open_parts(
    folder: Path,
    rows: Sequence[Question],
    progress_dir: str | Path | None,
    options: dict[str, Any],
    model_kwargs: dict[str, Any],
) -> Parts:
    """Divide the questions among the processes, and say in `model_kwargs` where each runs its models."""
    asked = (model_kwargs.get("device", AUTO), model_kwargs.get("dtype", AUTO))
    processes = launched_processes(asked[0])
    device, dtype = choose_place(processes, *asked)
    model_kwargs |= {"device": str(device), "dtype": name_of(dtype)}
    kept, run = None if progress_dir is None else Path(progress_dir), None
    if kept is not None and processes.is_main_process:
        # Whether code is trusted decides whether there is an outcome, and not which.
        of_models = {name: value for name, value in model_kwargs.items() if name != "trust_remote_code"}
        run = describe_evaluation(folder, rows, **options, **of_models)
    return Parts(len(rows), options["batch_size"], processes, kept, run)


def _tasks(pipeline: RAGPipeline, rows: Sequence[Question], shuffle: int | None, *options: Any) -> TaskOf:
    """Return what makes the task of some rows when they are read; systems read the same ones one after the other."""

    @lru_cache(_KEPT_TASKS)
    def task_of(start: int, stop: int) -> Task:
        shown, ranks = shuffled(rows[start:stop], shuffle)
        return Task(pipeline, pipeline.cut(shown), ranks, *options)

    return task_of


def _run_systems(
    found: dict[str, System],
    pair: str,
    task_of: TaskOf,
    parts: Parts,
    selections: dict[str, list[Selection]],
    predictions: dict[str, list[Prediction]],
    max_new_tokens: int,
) -> None:
    """Have one pair choose for the systems that it chooses for, and answer for those that it answers for."""
    known: Answered = {}
    for name, system in found.items():
        if system.chooser == pair:
            selections[name] = parts.map(f"{name}: selections", partial(_choose, system, task_of))
        if system.generator == pair:
            answer = partial(_answer, selections[name], known, max_new_tokens)
            predictions[name] = parts.map(f"{name}: answers", partial(answer, task_of))
            known |= dict(zip(_readings(selections[name], 0), predictions[name], strict=True))


def _choose(system: System, task_of: TaskOf, part: slice) -> list[Selection]:
    return system.choose(task_of(part.start, part.stop))


def _readings(selections: Sequence[Selection], first_row: int) -> list[tuple[int, tuple[int, ...]]]:
    """Return what the generator reads: each row's number and the passages of its selection."""
    return [(number, tuple(selection)) for number, selection in enumerate(selections, first_row)]


def _answer(
    selections: list[Selection], known: Answered, max_new_tokens: int, task_of: TaskOf, part: slice
) -> list[Prediction]:
    """Answer the questions of a part, but for those that another system answered from the same passages."""
    read = _readings(selections[part], part.start)
    new = [reading for reading in read if reading not in known]
    task = task_of(part.start, part.stop)
    rows, chosen = [task.rows[number - part.start] for number, _ in new], [list(selection) for _, selection in new]
    found = dict(zip(new, predict(task.pipeline, rows, chosen, task.batch_size, max_new_tokens), strict=True))
    return [found.get(reading) or known[reading] for reading in read]
