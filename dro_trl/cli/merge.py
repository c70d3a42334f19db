"""`dro-trl merge`: adapters made part of their base models, for programs that know nothing of adapters."""

from pathlib import Path
from typing import Annotated

import typer


def main(
    model: Annotated[
        Path, typer.Option("--model_name_or_path", help="Folder that `dro-trl train` wrote, with adapters.")
    ],
    output_dir: Annotated[Path, typer.Option("--output_dir", help="Where the whole models go.")],
    dtype: Annotated[str, typer.Option("--dtype", help="Of the weights: float32, bfloat16, …")] = "float32",
    trust_remote_code: Annotated[
        bool, typer.Option("--trust_remote_code", help="Run code that comes with the models.")
    ] = False,
) -> None:
    """Merge the adapters of a trained pair into whole models; the result is used as the pair itself."""
    from dro_trl.cli.quiet import load_quietly
    from dro_trl.models.saving import merge_adapters

    load_quietly()
    merge_adapters(model, output_dir, dtype, trust_remote_code)
    print(f"Models: {output_dir}")
