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
    import json
    import random
    import tempfile
    from array import array

    from dro_trl.cli.outputs import claim
    from dro_trl.files.text_rows import read_json
    from dro_trl.files.wording import counted
    from dro_trl.files.writing import atomic_path

    claim(context, {"--output": output}, {f"--input {number}": path for number, path in enumerate(inputs, start=1)})
    # The rows stand in a file, and only where each begins is kept in memory.
    folder = output.parent if output.parent.is_dir() and output.parent != Path("/dev") else None
    with tempfile.TemporaryFile(dir=folder) as rows:
        begins = array("q")
        for path in inputs:
            for number, row in read_json(path):
                if not isinstance(row, dict):
                    raise ValueError(
                        f"{path}, row {number}: {row if isinstance(row, ValueError) else 'no JSON object'}"
                    )
                begins.append(rows.tell())
                rows.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
        random.Random(seed).shuffle(begins)
        with atomic_path(output) as temporary, temporary.open("wb") as file:
            for begin in begins:
                rows.seek(begin)
                file.write(rows.readline())
    found = f"{counted(len(begins), 'row')} of {counted(len(inputs), 'file')}"
    typer.echo(f"wrote {output}: {found}, in random order (seed {seed})")
