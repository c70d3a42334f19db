"""`dro-trl run`: all stages from public files to an evaluated pair, by one recipe."""

from pathlib import Path
from typing import Annotated, Any

import typer

from dro_trl.options.renamed import say
from dro_trl.recipes.runs.running import check_recipe, finish, foresee, run_or_skip, show_plan


def main(
    context: typer.Context,
    recipe: Annotated[Path | None, typer.Argument(hidden=True)] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", help="Recipe: a YAML file with a section for each stage, or the name of one of the package."
        ),
    ] = None,
    output_dir: Annotated[
        Path | None, typer.Option("--output_dir", help="Folder of all stages, in place of the recipe's.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry_run", help="Say what would run and why; run nothing.")] = False,
    until: Annotated[str | None, typer.Option("--until", help="Last stage to run.")] = None,
    redo: Annotated[str | None, typer.Option("--redo", help="Run this stage and those after it in any case.")] = None,
) -> None:
    """Prepare, index, retrieve, warm up, train and evaluate; what is done and has not changed is not done again."""
    from dro_trl.cli.index import cleaning_up_when_terminated
    from dro_trl.files.folders import check_unwritten, locked
    from dro_trl.recipes.runs.digests import Digests
    from dro_trl.recipes.runs.plan import SECTIONS, plan_run

    if (recipe is None) == (config is None):
        raise ValueError(f"name one recipe, with --config; found --config={config} and {recipe}")
    if recipe is not None:
        say(f"the recipe is named with --config now: --config {recipe}")
    path = Path(str(config or recipe))
    group: Any = context.find_root().command
    stages = plan_run(path, group.commands, output_dir)
    for option, name in (("--until", until), ("--redo", redo)):
        if name is not None and name not in (known := [stage.section for stage in stages]):
            raise ValueError(f"{option} {name}: the recipe has the stages {', '.join(dict.fromkeys(known))}")
    last = SECTIONS.index(until) if until else len(SECTIONS)
    first = SECTIONS.index(redo) if redo else len(SECTIONS)
    stages = [stage for stage in stages if SECTIONS.index(stage.section) <= last]
    forced = {stage.name for stage in stages if SECTIONS.index(stage.section) >= first}
    folder = stages[0].folder.parent
    check_unwritten(folder, ("stages.json",), (".digests.json",))
    digests = Digests(folder / ".digests.json")
    reasons = foresee(stages, digests, forced)
    if dry_run:
        show_plan(stages, reasons)
        return
    for stage in stages:
        if stage.recipe is not None and reasons[stage.name]:
            check_recipe(stage, str(path))
    with locked(folder) as lock, cleaning_up_when_terminated():
        rows = [run_or_skip(stage, digests, lock, stage.name in forced) for stage in stages]
    finish(stages, rows, folder)
