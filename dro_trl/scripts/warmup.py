"""`dro-trl warmup`: one model trained before DRO; on several processes, as `dro-trl train`."""

from typing import Annotated, Any

import typer


def main(
    context: typer.Context,
    part: Annotated[str, typer.Argument(metavar="selector|generator", help="Which model to warm up.")],
) -> None:
    """Warm up a selector or a generator: --config recipe.yaml, and --NAME VALUE for any field of it."""
    if part not in ("selector", "generator"):
        raise ValueError(
            f"{part!r} is not one of 'selector', 'generator'; say first which model to warm up, as in "
            "dro-trl warmup selector --config recipe.yaml"
        )
    from dro_trl.warmup.training import parse_warmup, run_warmup

    chosen: Any = part
    trainer = run_warmup(chosen, *parse_warmup(context.args))
    trainer.accelerator.end_training()
