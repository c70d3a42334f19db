"""How long the command line and the package take to start, beside an empty Python program.

    python examples/benchmarks/start_up.py

Each is a process of its own; they take turns, `--rounds` times, after one round that is left out, since it reads the
files from disk. Seconds are of the clock and, in brackets, those that the processor gave to the process, which other
work on the machine touches less.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from dro_trl.files.writing import write_json

PROGRAMS = {
    "python -c pass": ["-c", "pass"],
    "import dro_trl": ["-c", "import dro_trl"],
    "dro-trl --help": ["-m", "dro_trl", "--help"],
    "dro-trl train --help": ["-m", "dro_trl", "train", "--help"],
}
TARGETS = {"import dro_trl": 0.3, "dro-trl --help": 0.5}


def seconds_of(arguments: list[str]) -> dict[str, float]:
    """Run a Python program to its end, and return its seconds."""
    before, start = os.times(), time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    elapsed, after = time.perf_counter() - start, os.times()
    processor = after.children_user + after.children_system - before.children_user - before.children_system
    return {"seconds": elapsed, "processor_seconds": processor}


def main() -> None:
    """Measure, print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--output", type=Path, default=Path("start_up.json"))
    options = parser.parse_args()
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in PROGRAMS}
    for _ in range(options.rounds + 1):
        for name, arguments in PROGRAMS.items():
            runs[name].append(seconds_of(arguments))
    shown, rows = Table("program", "seconds", "range", "target", title=f"median of {options.rounds}"), []
    for name, found in runs.items():
        row = {"program": name, "target": TARGETS.get(name)}
        row |= {key: [run[key] for run in found[1:]] for key in found[0]}
        clock, processor = (statistics.median(row[key]) for key in found[0])
        spread = f"{min(row['seconds']):.2f}–{max(row['seconds']):.2f}"
        shown.add_row(name, f"{clock:.2f} ({processor:.2f})", spread, f"{row['target']:.1f}" if row["target"] else "")
        rows.append(row)
    Console().print(shown)
    write_json(options.output, rows)
    print(f"Results: {options.output}")


if __name__ == "__main__":
    main()
