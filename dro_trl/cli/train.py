"""`dro-trl train`: the trainer from a recipe; on several processes, `accelerate launch ... -m dro_trl train ...`."""

import typer

from dro_trl.cli import options

HELP = "Every option is a field of the recipe: --config FILE, and --NAME VALUE to override one of its lines."


def main(context: typer.Context, help_all: options.HelpAll = False) -> None:
    """Train a selector and a generator: --config recipe.yaml, and --NAME VALUE for any field of it."""
    from dro_trl.recipes.options import TRAIN, read_given
    from dro_trl.recipes.paths import check_lines

    given = read_given(context.args, TRAIN)  # Before torch is imported, which takes seconds.
    check_lines(given.values, given.source)

    from dro_trl.cli.quiet import load_quietly
    from dro_trl.recipes.arguments import make_parts
    from dro_trl.recipes.training import run_recipe
    from dro_trl.trainer.dro_config import DROConfig

    load_quietly()
    trainer = run_recipe(*make_parts(given, DROConfig))
    trainer.accelerator.wait_for_everyone()  # Process 0 draws the curves; the others must not take its store along.
    trainer.accelerator.end_training()
