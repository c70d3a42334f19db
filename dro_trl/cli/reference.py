"""The pages of the documentation on commands and options, made from what the commands' help is made from."""

from collections.abc import Iterable, Mapping
from typing import Any

from dro_trl.cli.listing import Entry
from dro_trl.options.renamed import RENAMED


def commands_page(program: Any) -> str:
    """Return Markdown with a section for each command: what it does, examples, and its own arguments and options.

    Args:
        program: The group of all commands.
    """
    parts = []
    for name, command in program.commands.items():
        groups = command.entries(command.context_class(command, info_name=name))
        own = [entry for group in ("Arguments", "Options") for entry in groups.get(group, [])]
        parts += [
            f"## {name}",
            " ".join(command.help.split()),
            "\n".join(["```bash", command.epilog, "```"]),
            _table(own),
        ]
        if command.recipe_options:
            parts.append("Besides, each line of its recipe is an option: [Options of recipes](recipe_options.md).")
    return "\n\n".join(parts)


def options_page(program: Any) -> str:
    """Return Markdown with every line that a recipe may have, by group, and the commands whose recipes may have it.

    Args:
        program: The group of all commands.
    """
    groups: dict[str, dict[str, tuple[Entry, list[str]]]] = {}
    for name, command in program.commands.items():
        if not command.recipe_options or name == "estimate":  # Its recipes are those of `train`.
            continue
        for group, entries in command.entries(command.context_class(command, info_name=name)).items():
            for entry in entries:
                if entry.names[0].lstrip("-") in command.recipe_options:
                    _, commands = groups.setdefault(group, {}).setdefault(entry.names[0], (entry, []))
                    commands.append(name)
    parts = []
    for group, found in groups.items():
        entries = [entry for entry, _ in found.values()]
        parts += [f"## {group}", _table(entries, dict(found.values()), full=True)]
    return "\n\n".join(parts)


def renamed_table() -> str:
    """Return Markdown with the options that had other names."""
    rows = [(command, f"`--{old}`", f"`--{new}`") for command, names in RENAMED.items() for old, new in names.items()]
    return _rows(("command", "old name", "name"), rows)


def _table(entries: Iterable[Entry], commands: Mapping[Entry, list[str]] | None = None, full: bool = False) -> str:
    columns = ["option", "value", "default", "what it is", *(["of"] if commands else [])]
    rows = []
    for entry in entries:
        default = "required" if entry.required else f"`{entry.default}`" if entry.default else ""
        what = entry.help if full else entry.sentence
        row = [f"`{entry.title}`", f"`{entry.kind}`" if entry.kind else "", default, what]
        rows.append([*row, ", ".join(commands[entry])] if commands else row)
    return _rows(columns, rows)


def _rows(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    columns = list(columns)
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
