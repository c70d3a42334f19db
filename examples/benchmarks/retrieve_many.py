"""How fast many questions get candidates, and in how much memory, by `dro-trl retrieve` and by Pyserini alone.

    python examples/benchmarks/retrieve_many.py --num_questions 50000

Invented passages of 100 words are indexed once, and questions of 4 to 12 words drawn from passages are asked, by both
with the same threads, in turns. `dro-trl retrieve` is all of the command's work but its start: questions are read and
checked, searched for, and written to the disk with their passages. Pyserini is `LuceneSearcher.batch_search`, 256
questions at once, whose hits are read (id, score, and title and text out of the stored JSON) and dropped; nothing is
written. Its search alone, no hit read, is given too. 1,000 questions are asked beforehand, so that Java has compiled
what it runs often. Peak memory (resident set) is that of this package's Python process, which holds no Java.
"""

import argparse
import json
import multiprocessing
import os
import random
import resource
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import accumulate
from pathlib import Path
from typing import Any

from dro_trl.files.unfinished import unfinished
from dro_trl.files.writing import write_json, write_jsonl
from dro_trl.retrieval.adding import Adding, add_candidates, by_bm25, check_rows
from dro_trl.retrieval.jvm import find_java
from dro_trl.retrieval.pyserini import PyseriniRetriever
from dro_trl.retrieval.questions import QuestionRows

WARM_UP, BATCH = 1_000, 256


def make(folder: Path, num_passages: int, num_questions: int, seed: int) -> None:
    """Write an index of passages whose words are drawn as in natural text, and questions of words of one passage."""
    rng = random.Random(seed)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(3, 10))) for _ in range(50_000)]
    weights = list(accumulate(1 / rank for rank in range(1, len(words) + 1)))
    texts = [rng.choices(words, cum_weights=weights, k=100) for _ in range(num_passages)]
    corpus = [{"id": str(n), "title": text[0], "text": " ".join(text)} for n, text in enumerate(texts)]
    PyseriniRetriever.build(corpus, folder / "index", progress=False).close()
    rows = [{"question": " ".join(rng.sample(rng.choice(texts), rng.randint(4, 12)))} for _ in range(num_questions)]
    write_jsonl(folder / "warm.jsonl", rows[:WARM_UP])
    write_jsonl(folder / "questions.jsonl", rows)


class Ours:
    """What `dro-trl retrieve` does; used in a process of its own."""

    def __init__(self, folder: Path, k: int, threads: int) -> None:
        self.folder, self.adding = folder, Adding(k)
        self.retriever = PyseriniRetriever(folder / "index", threads=threads)
        self.ask("warm.jsonl")

    def ask(self, name: str = "questions.jsonl") -> dict[str, float]:
        """Return the seconds that it took, and the peak memory so far."""
        start = time.perf_counter()
        with QuestionRows(self.folder / name) as rows, unfinished({"rows": self.folder / "out.jsonl"}, {}) as files:
            checked = check_rows(rows, self.adding)
            add_candidates(rows, checked, self.adding, by_bm25(self.retriever), self.retriever, files)
        seconds = time.perf_counter() - start
        return {"seconds": seconds, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


class Theirs:
    """What a program on Pyserini does; used in a process of its own."""

    def __init__(self, folder: Path, k: int, threads: int) -> None:
        import jnius_config

        os.environ["JAVA_HOME"] = str(find_java().home)
        os.environ.setdefault("OPENAI_API_KEY", "none")  # Pyserini builds a client of it when it is imported.
        add_options = jnius_config.add_options
        jnius_config.add_options = lambda *options: add_options(*(o for o in options if "vector" not in o))
        from pyserini.search.lucene import LuceneSearcher

        self.searcher, self.k, self.threads = LuceneSearcher(str(folder / "index")), k, threads
        self.searcher.set_bm25(0.9, 0.4)
        self.folder = folder
        self.ask("warm.jsonl")

    def ask(self, name: str = "questions.jsonl") -> dict[str, float]:
        """Return the seconds that it took, and those in which it searched."""
        start, searched = time.perf_counter(), 0.0
        questions = [json.loads(line)["question"] for line in (self.folder / name).open(encoding="utf-8")]
        for first in range(0, len(questions), BATCH):
            batch, before = questions[first : first + BATCH], time.perf_counter()
            ids = [str(number) for number in range(len(batch))]
            found = self.searcher.batch_search(batch, ids, self.k, self.threads)
            searched += time.perf_counter() - before
            for id in ids:
                for hit in found[id]:
                    document = json.loads(hit.lucene_document.get("raw"))
                    hit.docid, hit.score, document.get("title"), document["contents"]
        return {"seconds": time.perf_counter() - start, "searched": searched}


ASKED: list[Any] = []


def ask(system: type, *options: Any) -> dict[str, float]:
    """Ask a system that is opened once in this process."""
    if not ASKED:
        ASKED.append(system(*options))
    found: dict[str, float] = ASKED[0].ask()
    return found


def measure(num_passages: int, num_questions: int, k: int, threads: int, rounds: int, seed: int) -> dict[str, Any]:
    """Ask both the same questions in turns, and return the medians of the rounds."""
    spawn, mine, other = multiprocessing.get_context("spawn"), [], []
    with tempfile.TemporaryDirectory() as name:
        with ProcessPoolExecutor(1, spawn) as process:
            process.submit(make, Path(name), num_passages, num_questions, seed).result()
        with ProcessPoolExecutor(1, spawn) as ours, ProcessPoolExecutor(1, spawn) as theirs:
            for _ in range(rounds):
                mine.append(ours.submit(ask, Ours, Path(name), k, threads).result())
                other.append(theirs.submit(ask, Theirs, Path(name), k, threads).result())
                print(f"seconds: {mine[-1]['seconds']:.1f} and {other[-1]['seconds']:.1f}", flush=True)
    rates = {
        "dro-trl": statistics.median(num_questions / one["seconds"] for one in mine),
        "Pyserini": statistics.median(num_questions / one["seconds"] for one in other),
        "batch_search alone": statistics.median(num_questions / one["searched"] for one in other),
    }
    ratio = statistics.median(b["seconds"] / a["seconds"] for a, b in zip(mine, other, strict=True))
    sizes = {"passages": num_passages, "questions": num_questions, "k": k, "threads": threads}
    return {**sizes, "questions_per_s": rates, "ratio": ratio, "python_peak_mb": mine[-1]["peak_mb"]}


def main() -> None:
    """Measure, print, and write JSON."""
    parser = argparse.ArgumentParser(description="Candidates for many questions, against Pyserini's batch_search.")
    for option, value in {"num_passages": 30_000, "num_questions": 50_000, "k": 20, "rounds": 3, "seed": 0}.items():
        parser.add_argument(f"--{option}", type=int, default=value)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--output", type=Path, default=Path("retrieve_many.json"))
    options = vars(parser.parse_args())
    output = options.pop("output")
    result = measure(**options)
    write_json(output, result)
    print(json.dumps(result, indent=2) + f"\nwrote {output}")


if __name__ == "__main__":
    main()
