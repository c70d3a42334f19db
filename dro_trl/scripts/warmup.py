"""`dro-trl warmup`: one model trained before DRO; on several processes, as `dro-trl train`."""

from typing import Annotated, Literal

import typer


def main(
    context: typer.Context,
    part: Annotated[Literal["selector", "generator"], typer.Argument(help="Which model to warm up.")],
) -> None:
    """Warm up a selector or a generator: --config recipe.yaml, and --NAME VALUE for any field of it."""
    from dro_trl.warmup.training import parse_warmup, run_warmup

    trainer = run_warmup(part, *parse_warmup(context.args))
    trainer.accelerator.end_training()
