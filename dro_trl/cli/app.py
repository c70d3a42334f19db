"""The command `dro-trl`: registers the commands and turns expected errors into one line."""

from traceback import walk_tb
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import dro_trl
from dro_trl.cli import (
    ask,
    compare,
    demo,
    estimate,
    evaluate,
    gemma,
    index,
    merge,
    mix,
    prepare,
    quickstart,
    recipes,
    rerank,
    retrieve,
    run,
    serve,
    train,
    warmup,
)
from dro_trl.names import append_own

PACKAGE = __name__.partition(".")[0]


def is_expected(error: Exception) -> bool:
    """Tell whether an error is the user's to mend, so that its message says more than its traceback.

    These are failures of the file system, and what this package raises by itself. Anything else, even a `ValueError`
    of a library that this package called, is a defect, and its traceback is what helps.
    """
    if isinstance(error, OSError):
        return not isinstance(error, BrokenPipeError)
    if not isinstance(error, (ValueError, RuntimeError, ImportError)):
        return False
    *_, (frame, _) = walk_tb(error.__traceback__)
    return str(frame.f_globals["__name__"]).partition(".")[0] == PACKAGE


def message_of(error: Exception) -> str:
    """Return the error's message, without Python's `[Errno 2]` where the system reported a file."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error) or type(error).__name__


class Commands(TyperGroup):
    """The group of all commands; an expected error ends it with `error: message` and exit code 2."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that the context names."""
        try:
            return super().invoke(ctx)
        except Exception as error:
            if ctx.params["debug"] or not is_expected(error):
                raise
            typer.secho(f"error: {message_of(error)}", fg=typer.colors.RED, err=True)
            raise typer.Exit(2) from None


app = typer.Typer(cls=Commands, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


def print_version(wanted: bool) -> None:
    """Print the version and stop, where `--version` was given."""
    if wanted:
        typer.echo(f"dro-trl {dro_trl.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", envvar="DRO_TRL_DEBUG", help="Show the traceback of every error.")
    ] = False,
) -> None:
    """Direct Retrieval-augmented Optimization: train a passage selector and an answer generator together."""


COMMANDS = (
    quickstart,
    run,
    index,
    retrieve,
    rerank,
    prepare,
    mix,
    estimate,
    warmup,
    train,
    evaluate,
    compare,
    ask,
    serve,
    demo,
    merge,
    gemma,
    recipes,
)
for command in COMMANDS:
    # Every further option of these is a line of their recipe.
    reads_recipe = command in (estimate, warmup, train, compare)
    settings = {"allow_extra_args": True, "ignore_unknown_options": True} if reads_recipe else None
    app.command(command.__name__.rpartition(".")[2], context_settings=settings)(command.main)


def main() -> None:
    """Run the command line; dotted paths may lead to the working directory."""
    append_own()
    app(prog_name="dro-trl")
