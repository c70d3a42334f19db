"""`dro-trl warmup`: one model trained before DRO; on several processes, as `dro-trl train`."""

from typing import Annotated, Any

import typer

from dro_trl.cli import options


def main(
    context: typer.Context,
    part: Annotated[str, typer.Argument(metavar="selector|generator", help="Which model to warm up.")],
    help_all: options.HelpAll = False,
) -> None:
    """Warm up a selector or a generator: --config recipe.yaml, and --NAME VALUE for any field of it."""
    if part not in ("selector", "generator"):
        raise ValueError(
            f"{part!r} is not one of 'selector', 'generator'; say first which model to warm up, as in "
            "dro-trl warmup selector --config recipe.yaml"
        )
    from dro_trl.recipes.options import WARMUP, read_given
    from dro_trl.recipes.paths import check_lines

    given = read_given(context.args, WARMUP)  # Before torch is imported, which takes seconds.
    check_lines(given.values, given.source)

    from dro_trl.cli.quiet import load_quietly
    from dro_trl.recipes.arguments import make_parts
    from dro_trl.recipes.warmup import run_warmup
    from dro_trl.trainer.warmup_config import WarmupConfig

    chosen: Any = part
    load_quietly()
    trainer = run_warmup(chosen, *make_parts(given, WarmupConfig))
    trainer.accelerator.end_training()
