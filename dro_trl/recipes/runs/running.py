"""The stages of a run, one after the other: which have to run, and what they made."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Callable

    from dro_trl.recipes.runs.digests import Digests
    from dro_trl.recipes.runs.stage import Stage


def foresee(stages: "list[Stage]", digests: "Digests", forced: set[str]) -> dict[str, str | None]:
    """Say for each stage why it will run, as far as that is known before those ahead of it have run."""
    reasons: dict[str, str | None] = {}
    pending: dict[str, str] = {}
    for stage in stages:
        awaited = sorted({pending[source] for source in stage.sources.values() if source in pending})
        if stage.name in forced:
            reasons[stage.name] = "asked for by --redo"
        elif awaited:
            done = (stage.folder / "stage.json").is_file()
            reasons[stage.name] = f"{'only if what it reads changes' if done else 'not run yet'}: {', '.join(awaited)}"
        else:
            reasons[stage.name] = stage.reason_to_run(stage.inputs(digests), digests)
        if reasons[stage.name]:
            pending |= {str(stage.folder / product): stage.name for product in stage.products}
    return reasons


def show_plan(stages: "list[Stage]", reasons: dict[str, str | None]) -> None:
    """Print which stages would run, why, and by what commands."""
    for stage in stages:
        reason = reasons[stage.name]
        typer.echo(f"{stage.name}: " + (f"runs ({reason})" if reason else "cached"))
        for command in stage.commands if reason else []:
            typer.echo(f"  $ {stage.shown(command)}")


def run_or_skip(stage: "Stage", digests: "Digests", lock: int, forced: bool) -> dict[str, Any]:
    """Run a stage unless what it made would be made again; return its row of the report."""
    from dro_trl.recipes.runs.digests import RECORD_NAME
    from dro_trl.recipes.runs.stage import read_record

    inputs = stage.inputs(digests)
    reason = "asked for by --redo" if forced else stage.reason_to_run(inputs, digests)
    if reason is None:
        typer.echo(f"[{stage.name}] cached")
        record = read_record(stage.folder / RECORD_NAME)
        assert record is not None
    else:
        typer.echo(f"[{stage.name}] {reason}")
        record = stage.run(inputs, digests, lock, anew=forced)
    digests.save()
    state = "cached" if reason is None else "ran"
    return {"stage": stage.name, "state": state, "reason": reason, "seconds": record["seconds"]}


def finish(stages: "list[Stage]", rows: list[dict[str, Any]], folder: Path) -> None:
    """Print the stages with their times, and write them as JSON."""
    from rich.console import Console
    from rich.table import Table

    import dro_trl
    from dro_trl.files.writing import write_json

    table = Table("stage", "", "seconds")
    for row in rows:
        table.add_row(row["stage"], row["state"], f"{row['seconds']:,.1f}")
    Console().print(table)
    for stage, row in zip(stages, rows, strict=True):
        row |= {"folder": str(stage.folder), "products": stage.products}
        typer.echo(f"{stage.name}: {', '.join(str(stage.folder / product) for product in stage.products)}")
    write_json(folder / "stages.json", {"dro_trl": dro_trl.__version__, "stages": rows})
    typer.echo(f"Results: {folder / 'stages.json'}")


def check_recipe(stage: "Stage", source: str) -> None:
    """Parse a stage's recipe as its command will.

    Raises:
        ValueError: If the command would refuse it.
    """
    if found := in_a_process(find_mistake, stage.section, stage.recipe, stage.launch):
        raise ValueError(f"{source}: {stage.name}: {found}")


def in_a_process(function: "Callable[..., Any]", *arguments: Any) -> Any:
    """Call a function in a process of its own, which takes torch and its memory along when it ends."""
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    from dro_trl.names import starting_safely

    with starting_safely(), ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def find_mistake(command: str, recipe: dict[str, Any], launch: list[str] | None) -> str | None:
    """Return what the recipe of `train` or `warmup`, or the options of `accelerate launch`, may not say, or None."""
    import os
    import tempfile

    from dro_trl.names import refuse_unknown
    from dro_trl.recipes.arguments import parse_recipe
    from dro_trl.recipes.secrets import write_recipe
    from dro_trl.recipes.warmup import parse_warmup

    parse = {"train": parse_recipe, "warmup": parse_warmup}[command]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recipe.yaml"
        os.environ.update(write_recipe(recipe, path))
        try:
            if launch is not None:
                from accelerate.commands.launch import launch_command_parser

                known = {option[2:] for action in launch_command_parser()._actions for option in action.option_strings}
                refuse_unknown([word[2:] for word in launch if word.startswith("--")], known, "launch")
            parse(["--config", str(path)])
        except ValueError as error:
            return str(error).replace(f"{path}: ", "")
    return None
