"""`dro-trl mix`: several files of questions as one."""

from pathlib import Path
from typing import Annotated

import typer


def main(
    context: typer.Context,
    inputs: Annotated[list[Path], typer.Option("--input", help="JSONL file of rows, any number of them.")],
    output: Annotated[Path, typer.Option("--output", help="JSONL file to write: the rows of all.")],
    seed: Annotated[int, typer.Option("--seed", help="Of the order of the rows.")] = 0,
) -> None:
    """Join files of questions, their rows in a seeded random order."""
    import random

    from dro_trl.atomic_write import write_jsonl
    from dro_trl.scripts.outputs import claim
    from dro_trl.text_rows import read_json
    from dro_trl.wording import counted

    claim(context, {"--output": output}, {f"--input {number}": path for number, path in enumerate(inputs, start=1)})
    rows = []
    for path in inputs:
        for number, row in read_json(path):
            if not isinstance(row, dict):
                raise ValueError(f"{path}, row {number}: {row if isinstance(row, ValueError) else 'no JSON object'}")
            rows.append(row)
    random.Random(seed).shuffle(rows)
    write_jsonl(output, rows)
    found = f"{counted(len(rows), 'row')} of {counted(len(inputs), 'file')}"
    typer.echo(f"wrote {output}: {found}, in random order (seed {seed})")
