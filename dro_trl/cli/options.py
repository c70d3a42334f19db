"""Options that several commands have, each declared once: a parameter of a command is annotated with its name here."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class OnBadRow(StrEnum):
    """What to do about a row that cannot be read or converted."""

    stop = "raise"
    skip = "skip"


Model = Annotated[Path, typer.Option("--model", help="Folder that `dro-trl train` wrote, or its name on a hub.")]
Revision = Annotated[str | None, typer.Option("--revision", help="Of the model, on a hub.")]
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
Split = Annotated[str, typer.Option("--split", help="Split of a hub dataset.")]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Read only the first so many rows.")]
BadRows = Annotated[
    OnBadRow,
    typer.Option("--on_bad_row", "--on-bad-row", help="Stop at rows that break the format, or skip and count them."),
]
