"""Options that several commands have, each declared once: a parameter of a command is annotated with its name here."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class OnBadRow(StrEnum):
    """What to do about a row that cannot be read or converted."""

    stop = "raise"
    skip = "skip"


def show_all(context: typer.Context, wanted: bool) -> None:
    """Print the help with every option, and stop, where `--help-all` was given."""
    if wanted and not context.resilient_parsing:
        context.meta["help_all"] = True
        typer.echo(context.get_help())
        context.exit()


HelpAll = Annotated[
    bool,
    typer.Option("--help-all", callback=show_all, is_eager=True, help="Show this with every option of Trainer too."),
]
Model = Annotated[
    Path, typer.Option("--model_name_or_path", help="Folder that `dro-trl train` wrote, or its name on a hub.")
]
Revision = Annotated[str | None, typer.Option("--model_revision", help="Of the model, on a hub.")]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust_remote_code", help="Run code that the model names: its policy, its architecture.")
]
NumSelected = Annotated[
    int | None, typer.Option("--num_selected", min=1, help="K, passages to select; as in training if not given.")
]
WindowSize = Annotated[
    int | None, typer.Option("--window_size", min=1, help="Candidates that are read at once; all if not given.")
]
WindowStride = Annotated[
    int | None, typer.Option("--window_stride", min=1, help="By how many a window moves; half of it if not given.")
]
MaxThinkingTokens = Annotated[
    int | None,
    typer.Option("--max_thinking_tokens", min=0, help="Longest thought before an answer; as in training."),
]
Device = Annotated[
    str, typer.Option("--device", help="Where the models run: auto (a GPU if there is one), cpu, cuda:1, …")
]
Dtype = Annotated[
    str, typer.Option("--dtype", help="Of the weights: auto (bfloat16 if the device has it), float32, …")
]
BadRows = Annotated[
    OnBadRow,
    typer.Option("--on_bad_row", help="Stop at rows that break the format, or skip and count them."),
]
