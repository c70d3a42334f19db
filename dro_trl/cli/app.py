"""The command `dro-trl`: registers the commands and turns expected errors into one line."""

import atexit
import os
import sys
import threading
from inspect import cleandoc
from traceback import walk_tb
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

import dro_trl
from dro_trl.cli import (
    ask,
    compare,
    demo,
    env,
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
from dro_trl.cli.command import Command, RecipeCommand
from dro_trl.cli.examples import EXAMPLES
from dro_trl.cli.help import write_commands
from dro_trl.cli.listing import entries_of
from dro_trl.cli.quiet import quieten
from dro_trl.names import append_own

GROUPS = {
    "Start": "quickstart",
    "Data": "prepare index retrieve mix",
    "Training": "estimate warmup train compare run",
    "Use": "evaluate ask rerank serve demo merge",
    "Help": "recipes gemma env",
}
"""The commands in groups, for the help."""

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

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help: the commands in the order of the work, then the options."""
        entries = entries_of(self.get_params(ctx), {}, ctx)["Options"]
        texts = {name: str(command.help) for name, command in self.commands.items()}
        groups = {group: {name: texts[name] for name in names.split()} for group, names in GROUPS.items()}
        formatter.write(write_commands(self.get_usage(ctx), str(self.help), groups, entries))

    def make_context(self, info_name: Any, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Parse the options of all commands; without any word, show the help."""
        try:
            return super().make_context(info_name, args or ["--help"], parent, **extra)
        except TyperException as error:
            raise _told(_usage_error(error, info_name)) from None

    def invoke(self, ctx: Any) -> Any:
        """Run the command that the context names."""
        try:
            return super().invoke(ctx)
        except TyperException as error:
            raise _told(_usage_error(error, ctx.command_path)) from None
        except Exception as error:
            if ctx.params["debug"] or not is_expected(error):
                raise
            raise _told(message_of(error)) from None


def _told(message: str) -> typer.Exit:
    """Print an error, and return what ends the program."""
    typer.secho(f"error: {message}", fg=typer.colors.RED, err=True)
    return typer.Exit(2)


def _usage_error(error: TyperException, command: str) -> str:
    """Return in one line what is wrong with the words of a command, and where its options are listed."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context else command
    return f"{command}: {error.format_message().replace('Value error, ', '').rstrip('.')}; see `{command} --help`"


app = typer.Typer(cls=Commands, pretty_exceptions_enable=False)


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
    env,
)
RECIPE_COMMANDS = (estimate, warmup, train, compare)
"""Every further option of these is a line of their recipe."""

for command in COMMANDS:
    name = command.__name__.rpartition(".")[2]
    of_recipe = command in RECIPE_COMMANDS
    app.command(
        name,
        cls=RecipeCommand if of_recipe else Command,
        epilog=cleandoc(EXAMPLES[name]),
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True} if of_recipe else None,
    )(command.main)


def main() -> None:
    """Run the command line; dotted paths may lead to the working directory."""
    append_own()
    quieten()
    try:
        app(prog_name="dro-trl")
    except SystemExit as end:
        if end.code or os.environ.get("WORLD_SIZE", "1") == "1":
            raise
        leave()


def leave() -> None:
    """End one of several processes, which has done all its work, with exit code 0.

    Python goes through its own end, in its order (threads, `atexit`, what was printed), the C++ libraries not through
    theirs, where threads of gloo that outlive their process group now and then abort the process, and with it the
    whole launch.
    """
    threading._shutdown()  # type: ignore[attr-defined]  # Which wakes idle pools; to join their threads would hang.
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(0)
