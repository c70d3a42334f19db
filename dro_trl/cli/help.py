"""Help as text: an option's name on a line of its own, what it is for below, so that 80 columns do for any name."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import RenderableType

    from dro_trl.cli.listing import Entry


def write_help(usage: str, text: str, examples: str, groups: Mapping[str, "Sequence[Entry]"], further: int = 0) -> str:
    """Return a command's help, as wide as the terminal and at most 100 columns.

    Args:
        usage: The line of usage.
        text: What the command does.
        examples: Commands, a line each.
        groups: Arguments and options, by group.
        further: How many options `--help-all` would show besides.
    """
    from rich.padding import Padding
    from rich.text import Text

    parts: list[RenderableType] = [Text(usage, style="bold"), Text(), Text(" ".join(text.split())), Text()]
    if examples:
        parts += [Text("Examples", style="bold yellow")]
        parts += [Padding(Text(line, overflow="fold"), (0, 0, 0, 2)) for line in examples.splitlines()]
        parts += [Text()]
    for group, entries in groups.items():
        parts += _entries(group, entries)
    if further:
        parts.append(Text(f"{further} further options of transformers' Trainer: --help-all"))
    return as_text(parts)


def write_commands(usage: str, text: str, groups: Mapping[str, Mapping[str, str]], options: "Sequence[Entry]") -> str:
    """Return the program's help.

    Args:
        usage: The line of usage.
        text: What the program does.
        groups: What each command does, by group.
        options: Of the program.
    """
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    parts: list[RenderableType] = [Text(usage, style="bold"), Text(), Text(" ".join(text.split())), Text()]
    width = max(len(name) for commands in groups.values() for name in commands)
    for group, commands in groups.items():
        table = Table.grid(padding=(0, 2))
        table.add_column(min_width=width, no_wrap=True)
        for name, what in commands.items():
            table.add_row(Text(name, style="bold cyan"), Text(" ".join(what.split())))
        parts += [Text(group, style="bold yellow"), Padding(table, (0, 0, 0, 2)), Text()]
    parts += _entries("Options", options)
    return as_text([*parts, Text("dro-trl COMMAND --help says more of a command.")])


def _entries(group: str, entries: "Sequence[Entry]") -> "list[RenderableType]":
    from rich.padding import Padding
    from rich.text import Text

    parts: list[RenderableType] = [Text(group, style="bold yellow")]
    for entry in entries:
        note = "(required)" if entry.required else f"(default: {entry.default})" if entry.default else ""
        words = [(entry.title, "bold cyan"), (entry.kind, "green"), (note, "dim")]
        title = Text(" ").join(Text(*word) for word in words if word[0])
        parts += [Padding(title, (0, 0, 0, 2)), Padding(Text(entry.sentence), (0, 0, 0, 6))]
    return [*parts, Text()]


def as_text(parts: "Sequence[RenderableType]") -> str:
    """Return what a console would print; with colours where standard output is a terminal that shows them."""
    from rich.console import Console

    console = Console(highlight=False)
    console.width = min(console.width, 100)
    with console.capture() as capture:
        for part in parts:
            console.print(part)
    return "\n".join(line.rstrip() for line in capture.get().splitlines()).rstrip() + "\n"
