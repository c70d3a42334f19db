"""What a command can be told, as a list: read by its help, by the shell's completion and by the documentation."""

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

from dro_trl.options.values import UNKNOWN, Option
from dro_trl.recipes.option_groups import FURTHER, grouped

LONGEST = 75
"""Most characters of the values that an option may have which are listed beside its name."""

ARGUMENTS, OPTIONS = "Arguments", "Options"


@dataclass(frozen=True)
class Entry:
    """An argument or an option."""

    names: tuple[str, ...]
    """As they are written, such as `--seed`, or `--resume` and `--no_resume`."""
    kind: str
    """What its value is: `INT`, `raise|skip`; nothing for a switch."""
    default: str
    """What it is where it is not given; nothing where it has to be, or where that is nothing."""
    help: str
    required: bool = False

    @property
    def title(self) -> str:
        """The names in one: a switch and its contrary are `--[no_]resume`."""
        first, *rest = self.names
        return f"--[no_]{first[2:]}" if rest == [f"--no_{first[2:]}"] else ", ".join(self.names)

    @property
    def sentence(self) -> str:
        """The first sentence of the help."""
        found = re.match(r".+?[^.\s][.:](?=\s+[A-Z`'(\d])(?<!e\.g\.)(?<!i\.e\.)(?<!Dr\.)", self.help)
        sentence = (found[0] if found else self.help).removesuffix(":")
        return sentence if sentence.endswith((".", "…")) else f"{sentence}."


def entries_of(
    parameters: Iterable[Any], recipe_options: Mapping[str, Option], context: Any
) -> dict[str, list[Entry]]:
    """Return a command's arguments and options by group, without those that it hides.

    Args:
        parameters: Of the command.
        recipe_options: Lines of its recipe that are options as well, by name.
        context: Of the command.
    """
    found: dict[str, list[Entry]] = {ARGUMENTS: [], OPTIONS: []}
    hints = get_type_hints(inspect.unwrap(context.command.callback))
    for parameter in parameters:
        if not getattr(parameter, "hidden", False):
            group = OPTIONS if parameter.param_type_name == "option" else ARGUMENTS
            found[group].append(_entry(parameter, hints.get(parameter.name), context))
    for group, options in grouped(recipe_options).items():
        found[group] = [_recipe_entry(name, option) for name, option in options.items()]
    return {group: entries for group, entries in found.items() if entries}


def _entry(parameter: Any, hint: Any, context: Any) -> Entry:
    # A long name first, a short one behind it.
    names = tuple(sorted((*parameter.opts, *parameter.secondary_opts), key=lambda name: not name.startswith("--")))
    switch = hint in (None, bool)
    if parameter.param_type_name == "argument":
        names = (parameter.metavar or parameter.name.upper(),)
    kind = "" if switch or parameter.param_type_name == "argument" else _kind(Option.of(parameter.name, hint))
    default = parameter.get_default(context, call=False)
    shown = "" if switch and not default or callable(default) else _shown(default)
    return Entry(names, kind, shown, parameter.help or "", parameter.required)


def _recipe_entry(name: str, option: Option) -> Entry:
    names = (f"--{name}", f"--no_{name}") if option.has(bool) else (f"--{name}",)
    # Texts of transformers are for argparse, in which a percent sign is written twice.
    return Entry(names, _kind(option), _shown(option.default), " ".join(option.help.replace("%%", "%").split()))


def _kind(option: Option) -> str:
    """Return what an option's value is, in a word or two; nothing for a switch."""
    if option.has(bool):
        return ""
    if option.has(list):
        return f"{_name(option, option.items)} ..."
    return _name(option, option)


def _name(option: Option, value: Option) -> str:
    choices = [str(choice) for choice in value.choices]
    if choices:
        return "|".join(choices if len("|".join(choices)) <= LONGEST else [*choices[:2], "…"])
    if option.has(dict):
        return "JSON"
    named = {"FLOAT": float, "INT": int, "PATH": Path}
    return next((word for word, kind in named.items() if value.has(kind)), "TEXT")


def _shown(value: Any) -> str:
    if value is None or value is UNKNOWN or value in ("", [], {}, ()):
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return " ".join(map(_shown, value))
    return str(getattr(value, "value", value))


def names_of(groups: Mapping[str, Iterable[Entry]]) -> Iterator[str]:
    """Yield every option as it is written."""
    for entries in groups.values():
        for entry in entries:
            yield from (name for name in entry.names if name.startswith("-"))


def without_further(groups: Mapping[str, list[Entry]]) -> dict[str, list[Entry]]:
    """Return the groups without that of the options that are seldom asked for."""
    return {group: entries for group, entries in groups.items() if group != FURTHER}
