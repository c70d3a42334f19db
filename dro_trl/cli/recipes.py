"""`dro-trl recipes`: what recipes come with the package, and where they are."""

from typing import Annotated

import typer


def main(name: Annotated[str | None, typer.Argument(help="A recipe, such as accelerate/zero3.")] = None) -> None:
    """List the recipes that come with the package, or print the path of one: to read, copy, or give to a program."""
    from dro_trl.recipes.file import find_recipe, packaged_recipes

    typer.echo("\n".join(packaged_recipes()) if name is None else find_recipe(name))
