"""The class of every command: its names with hyphens or underscores, old ones too, and its help."""

import re
from collections.abc import Iterator, Mapping
from itertools import takewhile
from typing import Any

from typer.core import TyperCommand
from typer.exceptions import TyperException

from dro_trl.cli.help import write_help
from dro_trl.cli.listing import Entry, entries_of, names_of, without_further
from dro_trl.options.renamed import RENAMED, say
from dro_trl.options.values import Option

CONFIG = Entry(("--config",), "FILE", "", "Recipe: a YAML file, or the name of one that comes with the package.")


class Command(TyperCommand):
    """A command; its options may be written with hyphens, and under their old names."""

    @property
    def recipe_options(self) -> Mapping[str, Option]:
        """The lines of a recipe that are options as well, by name."""
        return {}

    def entries(self, context: Any) -> dict[str, list[Entry]]:
        """Return the arguments and options by group."""
        return entries_of(self.get_params(context), self.recipe_options, context)

    def invoke(self, ctx: Any) -> Any:
        """Run the command, once all that its options name is known to be there."""
        from dro_trl.recipes.paths import check_options

        options = {p.opts[0].lstrip("-"): ctx.params[p.name] for p in self.params if p.name in ctx.params}
        check_options(str(self.name), options, ctx.params)
        return super().invoke(ctx)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the words of the command line."""
        try:
            return super().parse_args(ctx, list(self._as_declared(ctx, args)))
        except TyperException as error:
            vars(error)["ctx"] = ctx  # Not every one knows which command it is of.
            raise

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help, in which no name is cut off, however narrow the terminal is."""
        groups = self.entries(ctx)
        further = 0 if ctx.meta.get("help_all") else sum(map(len, groups.values()))
        shown = groups if ctx.meta.get("help_all") else without_further(groups)
        further -= sum(map(len, shown.values())) if further else 0
        formatter.write(write_help(self.get_usage(ctx), self.help or "", self.epilog or "", shown, further))

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        """Return what the shell may complete a word to; the lines of a recipe are options too."""
        from typer._click.shell_completion import CompletionItem

        found = list(super().shell_complete(ctx, incomplete))
        if incomplete.startswith("-"):
            known = {item.value for item in found}
            found += [
                CompletionItem(n) for n in names_of(self.entries(ctx)) if n.startswith(incomplete) and n not in known
            ]
        return found

    def _as_declared(self, ctx: Any, args: list[str]) -> Iterator[str]:
        """Yield the words with each option as it is declared; several words behind one of a list are one each."""
        parameters: list[Any] = list(self.get_params(ctx))
        options = [parameter for parameter in parameters if parameter.param_type_name == "option"]
        declared = {
            name.replace("-", "_"): name for option in options for name in (*option.opts, *option.secondary_opts)
        }
        valued = {name for option in options if not option.is_flag for name in option.opts}
        lists = {name for o in options if o.multiple and len(options) == len(parameters) for name in o.opts}
        rest = list(args)
        while rest:
            word = rest.pop(0)
            name, equals, value = word.partition("=")
            if word == "--":
                yield from [word, *rest]
                return
            if word.startswith("--"):
                plain = f"--{name[2:].replace('-', '_')}"
                name = declared.get(plain.replace("-", "_")) or self._new_name(plain, ctx)
            yield f"{name}{equals}{value}"
            if name in valued and not equals and rest:
                yield rest.pop(0)
                further = list(takewhile(lambda word: not re.match("--?[a-z]", word), rest)) if name in lists else []
                rest = rest[len(further) :]
                yield from (part for word in further for part in (name, word))

    def _new_name(self, name: str, ctx: Any) -> str:
        new = RENAMED.get(self.name or "", {}).get(name[2:])
        if new is None:
            return name
        if not ctx.resilient_parsing:
            say(f"{name} is called --{new} now")
        return f"--{new}"


class RecipeCommand(Command):
    """A command whose further options are lines of its recipe."""

    @property
    def recipe_options(self) -> Mapping[str, Option]:
        """The lines of the recipe, but `env`, which is none of the command line."""
        from dro_trl.recipes.options import TRAIN, WARMUP

        if self.name == "compare":
            from dro_trl.recipes.studies.parsing import OWN, PER_ROW

            found = {n: o for n, o in {**TRAIN.options, **OWN}.items() if n not in PER_ROW}
        else:
            found = dict((WARMUP if self.name == "warmup" else TRAIN).options)
        return {name: option for name, option in found.items() if name != "env"}

    def entries(self, context: Any) -> dict[str, list[Entry]]:
        """Return the arguments and options by group, `--config` first."""
        found = super().entries(context)
        return {group: [CONFIG, *e] if group == "Options" else e for group, e in found.items()}
