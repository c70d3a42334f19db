"""How fast passages are indexed, and in how much memory, by `dro-trl index` and by Pyserini's own indexer.

    python examples/benchmarks/index_speed.py --num_passages 200000

A corpus of invented passages of 100 words is written once and read by both, in the form that Pyserini reads (`id`,
`contents`). Pyserini's indexer is the Java program that `python -m pyserini.index.lucene` starts, started here
directly, with the Java and the number of threads that this package uses; both store the texts. CPU time is that of all
processes and threads, and is what to compare where other programs run on the same machine. Peak memory is that of a
process, as the system counts it (resident set); this package has two, Python, which reads and checks the corpus, and
Java, which holds the index.
"""

import argparse
import json
import multiprocessing
import os
import random
import resource
import subprocess
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from importlib.util import find_spec
from itertools import accumulate
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from dro_trl import PyseriniRetriever
from dro_trl.files.writing import write_json
from dro_trl.retrieval.jvm import find_java

WORDS_PER_PASSAGE = 100
VOCABULARY = 200_000


def write_corpus(path: Path, num_passages: int, seed: int) -> None:
    """Write passages of words that are drawn as in natural text: the n-th most frequent one in proportion to 1/n."""
    rng = random.Random(seed)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["".join(rng.choices(letters, k=rng.randint(3, 10))) for _ in range(VOCABULARY)]
    weights = list(accumulate(1 / rank for rank in range(1, VOCABULARY + 1)))
    with path.open("w", encoding="utf-8") as file:
        for number in range(num_passages):
            drawn = rng.choices(words, cum_weights=weights, k=WORDS_PER_PASSAGE)
            contents = f'"{drawn[0]} {drawn[1]}"\n{" ".join(drawn)}'
            file.write(json.dumps({"id": str(number), "contents": contents}) + "\n")


def index_here(corpus: Path, folder: Path, threads: int) -> dict[str, float]:
    """Index as `dro-trl index` does; to be called in a process of its own."""
    start = time.perf_counter()
    PyseriniRetriever.build(corpus, folder, threads=threads).close()
    python, java = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "seconds": time.perf_counter() - start,
        "cpu_seconds": python.ru_utime + python.ru_stime + java.ru_utime + java.ru_stime,
        "python_peak_mb": python.ru_maxrss / 1024,
        "java_peak_mb": java.ru_maxrss / 1024,
    }


def index_by_pyserini(corpus: Path, folder: Path, threads: int) -> dict[str, float]:
    """Index as `python -m pyserini.index.lucene` does."""
    package = find_spec("pyserini")
    assert package is not None
    assert package.origin is not None
    jars = Path(package.origin).parent / "resources" / "jars" / "*"
    options = "-collection JsonCollection -generator DefaultLuceneDocumentGenerator -storeRaw".split()
    paths = ["-input", str(corpus.parent), "-index", str(folder), "-threads", str(threads)]
    command = [str(find_java().executable), "-cp", str(jars), "io.anserini.index.IndexCollection", *options, *paths]
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        errors = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"Pyserini's indexer ended with {process.returncode}: {errors[-1000:]}")
    return {
        "seconds": time.perf_counter() - start,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "java_peak_mb": usage.ru_maxrss / 1024,
    }


def measure(num_passages: int, threads: int, seed: int) -> dict[str, Any]:
    """Index the same passages with both, one after the other."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "corpus").mkdir()
        corpus = folder / "corpus" / "corpus.jsonl"
        write_corpus(corpus, num_passages, seed)
        # The first of a new process: memory that this one used before would count as its own.
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as processes:
            ours = processes.submit(index_here, corpus, folder / "ours", threads).result()
        theirs = index_by_pyserini(corpus, folder / "theirs", threads)
        sizes = [PyseriniRetriever(folder / system, threads=1) for system in ("ours", "theirs")]
        for index in sizes:
            index.close()
            if index.num_passages != num_passages:
                raise RuntimeError(f"{index.index} holds {index.num_passages} of {num_passages} passages")
    systems = {"dro-trl": ours, "Pyserini": theirs}
    for figures in systems.values():
        figures["passages_per_s"] = num_passages / figures["seconds"]
        figures["passages_per_cpu_s"] = num_passages / figures["cpu_seconds"]
    return {"num_passages": num_passages, "threads": threads, "seed": seed, "systems": systems}


def show(result: dict[str, Any]) -> None:
    """Print the figures as a table."""
    title = f"{result['num_passages']:,} passages of {WORDS_PER_PASSAGE} words, {result['threads']} threads"
    headings = ("seconds", "CPU seconds", "passages/s", "passages/CPU s", "Python's peak, MB", "Java's peak, MB")
    names = ("seconds", "cpu_seconds", "passages_per_s", "passages_per_cpu_s", "python_peak_mb", "java_peak_mb")
    table = Table("system", *headings, title=title)
    for system, figures in result["systems"].items():
        cells = (figures.get(name) for name in names)
        table.add_row(system, *("–" if cell is None else f"{cell:,.0f}" for cell in cells))
    Console().print(table)


def main() -> None:
    """Measure, print, and write JSON."""
    parser = argparse.ArgumentParser(description="Speed and memory of indexing, against Pyserini's own indexer.")
    parser.add_argument("--num_passages", type=int, default=2_000_000)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("index_speed.json"))
    options = parser.parse_args()
    result = measure(options.num_passages, options.threads, options.seed)
    show(result)
    write_json(options.output, result)
    print(f"wrote {options.output}")


if __name__ == "__main__":
    main()
