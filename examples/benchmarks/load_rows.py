"""CPU time and memory of loading many rows, against plain `datasets.load_dataset`, which checks nothing.

    python examples/benchmarks/load_rows.py --num_rows 1000000

Two files of invented rows are written: `passages`, whose rows hold their candidates' titles and texts, and `ids`,
whose rows hold a question, its answers and the ids of its gold passages. Each is loaded in fresh processes, with an
empty cache. CPU time is that of the call, of all threads, without imports; peak memory is that of the process (its
resident set, of which pages of memory-mapped files are part).
"""

import argparse
import json
import multiprocessing
import random
import resource
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from dro_trl.files.writing import write_json

FORMS = ("passages", "ids")


def write_rows(path: Path, form: str, num_rows: int, num_candidates: int, num_words: int) -> None:
    """Write rows that fit the schema, of texts that are drawn from 20,000."""
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(3, 9))) for _ in range(20_000)]
    texts = [" ".join(rng.choices(words, k=num_words)) for _ in range(20_000)]
    with path.open("w", encoding="utf-8") as file:
        for number in range(num_rows):
            row: dict[str, Any] = {"id": f"q{number}", "question": f"{rng.choice(texts)}?"}
            row |= {"answers": rng.choices(words, k=2), "gold_ids": [str(rng.randrange(10**7))]}
            if form == "passages":
                row["candidates"] = [
                    {"id": f"{number}-{at}", "title": words[at], "text": text, "score": 20 - at / 7}
                    for at, text in enumerate(rng.choices(texts, k=num_candidates))
                ]
            file.write(json.dumps(row) + "\n")


def load_plain(path: Path, cache: str) -> int:
    """Load as `datasets` does."""
    import datasets

    return len(datasets.load_dataset("json", data_files=str(path), split="train", cache_dir=cache))


def load_checked(path: Path, cache: str) -> int:
    """Load and check every row."""
    from dro_trl.data.load import load_rag_dataset

    return len(load_rag_dataset(path, require_candidates=path.stem == "passages"))


def measure(load: Callable[[Path, str], int], path: Path, num_rows: int) -> dict[str, float]:
    """Load once; to be called in a process of its own."""
    import datasets  # noqa: F401

    import dro_trl.data.load  # noqa: F401

    with tempfile.TemporaryDirectory(dir=path.parent) as cache:
        start = time.process_time()
        found = load(path, cache)
        seconds = time.process_time() - start
    assert found == num_rows
    return {"cpu_seconds": seconds, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def main() -> None:
    """Measure, print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num_rows", type=int, default=1_000_000)
    parser.add_argument("--num_candidates", type=int, default=20)
    parser.add_argument("--num_words", type=int, default=10, help="of a passage")
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    parser.add_argument("--folder", type=Path, help="of the files, which are removed at the end")
    parser.add_argument("--output", type=Path, default=Path("load_rows.json"))
    options = parser.parse_args()
    shown = Table("rows with", "loaded by", "CPU seconds", "ratio", "peak memory, MB", "ratio")
    results: dict[str, Any] = {"num_rows": options.num_rows}
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for form in options.forms:
            path = Path(folder) / f"{form}.jsonl"
            write_rows(path, form, options.num_rows, options.num_candidates, options.num_words)
            for load in (load_plain, load_checked):
                with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as processes:
                    found = processes.submit(measure, load, path, options.num_rows).result()
                results.setdefault(form, {})[load.__name__] = found
                plain = results[form]["load_plain"]
                cells = [(f"{value:,.1f}", f"{value / plain[name]:.2f}") for name, value in found.items()]
                shown.add_row(f"{form}, {path.stat().st_size / 1e6:,.0f} MB", load.__name__, *cells[0], *cells[1])
            path.unlink()
    Console().print(shown)
    write_json(options.output, results)
    print(f"wrote {options.output}")


if __name__ == "__main__":
    main()
