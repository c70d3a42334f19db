"""What commands that write files have in common."""

import contextlib
import sys
from collections.abc import Mapping
from pathlib import Path

import typer


def claim(context: typer.Context, outputs: Mapping[str, Path | None], inputs: Mapping[str, Path | None]) -> None:
    """Check the files that a command is to write, and keep its messages out of standard output if rows go there.

    Args:
        context: Of the command, whose end is that of its messages.
        outputs: Files to write, by the names of their options.
        inputs: Files and folders to read, by theirs.

    Raises:
        ValueError: If an output is an input, or the file of another output.
        OSError: If an output is no regular file, or its folder cannot be written to.
    """
    from dro_trl.files.writing import check_outputs, stream_descriptor

    check_outputs(outputs, inputs)
    if any(path is not None and stream_descriptor(path) == 1 for path in outputs.values()):
        context.with_resource(contextlib.redirect_stdout(sys.stderr))


def beside(output: Path, name: str) -> Path | None:
    """Return the path of a further file in the folder of an output; None where that is a stream, which has none."""
    from dro_trl.files.writing import stream_descriptor

    return output.with_name(name) if stream_descriptor(output) is None else None
