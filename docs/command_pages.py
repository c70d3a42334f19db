"""Fills the pages on commands and options: a line `<!-- made: NAME -->` becomes what the commands say."""

import re

import typer

from dro_trl.cli import reference
from dro_trl.cli.app import app

MADE = {
    "commands": lambda: reference.commands_page(typer.main.get_command(app)),
    "options": lambda: reference.options_page(typer.main.get_command(app)),
    "renamed": reference.renamed_table,
}


def on_page_markdown(markdown: str, **kwargs) -> str:
    return re.sub(r"^<!-- made: (\w+) -->$", lambda found: MADE[found[1]](), markdown, flags=re.MULTILINE)
