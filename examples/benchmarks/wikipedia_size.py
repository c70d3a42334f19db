"""Indexing and retrieval at the size of Wikipedia's passages, against Pyserini on the same files.

    python examples/benchmarks/wikipedia_size.py --num_passages 20000000 --folder wikipedia_size

Passages of 100 invented words, drawn as in natural text, and questions of 4 to 12 words of one passage are written by
two processes, never held as a whole. Then, one after the other: `dro-trl index`; all questions by `dro-trl retrieve`'s
work, with the memory of its process after each tenth of them; Pyserini's indexer on the same corpus, whose index has
other segments; all questions by both systems in turns, three rounds, as `retrieve_many.py` does it; that index merged
into one segment. The first tenth of the questions is asked again by one thread, and of both other indexes, and what is
found is compared, id by id and score by score.

Twenty million want 45 GB of disk; an index, and then the corpus, is deleted once it has been used. Each part is
written to the folder's `result.json` as it ends, and not done again.
"""

import argparse
import json
import multiprocessing
import os
import shutil
import statistics
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from index_speed import VOCABULARY, WORDS_PER_PASSAGE, index_by_pyserini, index_here
from retrieve_many import Ours, Theirs, ask

from dro_trl import PyseriniRetriever
from dro_trl.files.writing import load_json, write_json
from dro_trl.retrieval.jvm import find_java

BLOCK = 10_000
"""Passages that are drawn at once, from a seed of their own."""


def blocks(numbers: range, num_passages: int, each: int, seed: int) -> Iterator[tuple[str, str]]:
    """Return the passages of each block as lines, and the questions on every `each`-th of them."""
    rng = np.random.default_rng(seed)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    words = ["".join(rng.choice(letters, rng.integers(3, 11))) for _ in range(VOCABULARY)]
    chances = np.cumsum(1 / np.arange(1, VOCABULARY + 1))
    for number in numbers:
        rng = np.random.default_rng([seed, number])
        first = number * BLOCK
        count = min(BLOCK, num_passages - first)
        drawn = np.searchsorted(chances, rng.random((count, WORDS_PER_PASSAGE)) * chances[-1])
        lines, questions = [], []
        for id, row in enumerate(drawn.tolist(), first):
            text = [words[i] for i in row]
            contents = f'"{text[0]} {text[1]}"\n{" ".join(text)}'
            lines.append(json.dumps({"id": str(id), "contents": contents}))
            if id % each == 0:
                asked = " ".join(rng.choice(text, rng.integers(4, 13), replace=False))
                questions.append(json.dumps({"id": str(id), "question": asked}))
        yield "".join(f"{line}\n" for line in lines), "".join(f"{line}\n" for line in questions)


def write_part(folder: Path, part: int, parts: int, num_passages: int, each: int, seed: int) -> None:
    """Write one process's share of the corpus and of the questions."""
    numbers = range(part, -(-num_passages // BLOCK), parts)
    with (
        (folder / "corpus" / f"{part}.jsonl").open("w") as corpus,
        (folder / f"questions_{part}.jsonl").open("w") as questions,
    ):
        for lines, asked in blocks(numbers, num_passages, each, seed):
            corpus.write(lines)
            questions.write(asked)


def write(folder: Path, num_passages: int, num_questions: int, seed: int) -> dict[str, float]:
    """Write the corpus in two files, and all questions in one."""
    shutil.rmtree(folder / "corpus", ignore_errors=True)
    (folder / "corpus").mkdir(parents=True)
    each, parts = num_passages // num_questions, 2
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=write_part, args=(folder, part, parts, num_passages, each, seed))
        for part in range(parts)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        if process.exitcode:
            raise RuntimeError(f"writing the corpus ended with {process.exitcode}")
    questions = "".join((folder / f"questions_{part}.jsonl").read_text() for part in range(parts))
    (folder / "questions.jsonl").write_text(questions)
    (folder / "warm.jsonl").write_text("".join(questions.splitlines(keepends=True)[:100]))
    return {"gb": sum(path.stat().st_size for path in (folder / "corpus").iterdir()) / 1e9}


def index(folder: Path, name: str, how: Callable[[Path, Path, int], dict[str, float]]) -> dict[str, float]:
    """Index the corpus, in a process of its own; add the size and the number of segments."""
    shutil.rmtree(folder / name, ignore_errors=True)
    corpus = folder / "corpus" if how is index_here else folder / "corpus" / "0.jsonl"
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        figures = process.submit(how, corpus, folder / name, 2).result()
    return {**figures, **sizes(folder / name)}


def sizes(index: Path) -> dict[str, float]:
    """Return the bytes, segments and passages of an index."""
    with PyseriniRetriever(index, threads=1) as opened:
        passages = opened.num_passages
    gb = sum(path.stat().st_size for path in index.iterdir()) / 1e9
    return {"index_gb": gb, "segments": len(list(index.glob("*.si"))), "passages": passages}


def ours(folder: Path, index: str, threads: int, tenths: int) -> dict[str, Any]:
    """Ask tenths of the questions; keep what is found, and note the memory of this process after each."""
    place = folder / f"asked_{index}_{threads}"
    place.mkdir(exist_ok=True)
    for name in ("warm.jsonl", "questions.jsonl"):
        shutil.copy(folder / name, place)
    link = place / "index"
    link.unlink(missing_ok=True)
    link.symlink_to(folder / index)
    asking = Ours(place, 20, threads)
    lines, memory, seconds = (folder / "questions.jsonl").read_text().splitlines(keepends=True), [], 0.0
    for tenth in range(tenths):
        asked = lines[tenth * len(lines) // 10 : (tenth + 1) * len(lines) // 10]
        (place / "questions.jsonl").write_text("".join(asked))
        seconds += asking.ask()["seconds"]
        memory.append(psutil.Process().memory_info().rss / 2**20)
        with (place / "out.jsonl").open() as out, (place / f"found_{tenth}.jsonl").open("w") as found:
            for line in out:
                row = json.loads(line)
                found.write(json.dumps([[one["id"], one["score"]] for one in row["candidates"]]) + "\n")
    return {"seconds": seconds, "questions_per_s": len(lines) * tenths / 10 / seconds, "resident_mib": memory}


def in_turns(folder: Path, index: str, rounds: int) -> dict[str, Any]:
    """Ask all questions of both systems, again and again; return the seconds of each round."""
    for path in (folder / "index", folder / "turns" / "index"):
        path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)
        path.symlink_to(folder / index)
    for name in ("warm.jsonl", "questions.jsonl"):
        shutil.copy(folder / name, folder / "turns")
    spawn = multiprocessing.get_context("spawn")
    found: dict[str, list[float]] = {"dro-trl": [], "Pyserini": [], "its search alone": []}
    with ProcessPoolExecutor(1, spawn) as one, ProcessPoolExecutor(1, spawn) as other:
        for _ in range(rounds):
            found["dro-trl"].append(one.submit(ask, Ours, folder / "turns", 20, 2).result()["seconds"])
            theirs = other.submit(ask, Theirs, folder, 20, 2).result()
            found["Pyserini"].append(theirs["seconds"])
            found["its search alone"].append(theirs["searched"])
    pairs = zip(found["Pyserini"], found["dro-trl"], strict=True)
    return {"seconds": found, "ratio": statistics.median(theirs / ours for theirs, ours in pairs)}


def merge(folder: Path, index: str) -> dict[str, float]:
    """Merge the segments of an index into one."""
    import jnius_config

    os.environ["JAVA_HOME"] = str(find_java().home)
    from pyserini.setup import configure_classpath

    configure_classpath(str(files("pyserini") / "resources" / "jars"))
    jnius_config.set_options(*(one for one in jnius_config.get_options() if "vector" not in one))
    from jnius import autoclass

    place = autoclass("org.apache.lucene.store.FSDirectory").open(
        autoclass("java.io.File")(str(folder / index)).toPath()
    )
    writer = autoclass("org.apache.lucene.index.IndexWriter")(
        place, autoclass("org.apache.lucene.index.IndexWriterConfig")()
    )
    writer.forceMerge(1)
    writer.close()
    place.close()
    return {}


def alone(do: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """Call in a new process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(do, *arguments).result()


def compare(folder: Path, one: str, other: str) -> dict[str, float]:
    """Count the questions whose passages, order or scores differ between two of `ours`."""
    found: dict[str, float] = {"questions": 0, "other_passages": 0, "other_order": 0, "other_scores": 0, "most": 0.0}
    files = [folder / f"asked_{name}" / "found_0.jsonl" for name in (one, other)]
    for a, b in zip(*(map(json.loads, path.read_text().splitlines()) for path in files), strict=True):
        ids = [[id for id, _ in hits] for hits in (a, b)]
        found["questions"] += 1
        found["other_passages"] += set(ids[0]) != set(ids[1])
        found["other_order"] += ids[0] != ids[1]
        found["other_scores"] += a != b
        scores = dict(a)
        found["most"] = max([found["most"], *(abs(scores[id] - score) for id, score in b if id in scores)])
    return found


def main() -> None:
    """Measure part by part, and write JSON as it goes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num_passages", type=int, default=20_000_000)
    parser.add_argument("--num_questions", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("wikipedia_size"))
    options = parser.parse_args()
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    output = folder / "result.json"
    given = {name: getattr(options, name) for name in ("num_passages", "num_questions", "seed")}
    done: dict[str, Any] = load_json(output, "delete it") if output.exists() else given
    if {name: done[name] for name in given} != given:
        raise SystemExit(f"{output} is of {done}; give another --folder")

    def part(name: str, do: Callable[..., dict[str, Any]], *arguments: Any) -> None:
        if name not in done:
            done[name] = do(*arguments)
            write_json(output, done)
            print(name, json.dumps(done[name]), flush=True)

    part("corpus", write, folder, *given.values())
    part("dro-trl index", index, folder, "ours", index_here)
    part("dro-trl retrieve", alone, ours, folder, "ours", 2, 10)
    part("dro-trl retrieve, one thread", alone, ours, folder, "ours", 1, 1)
    part("one thread against two", compare, folder, "ours_2", "ours_1")
    shutil.rmtree(folder / "ours", ignore_errors=True)
    part("Pyserini's indexer", index, folder, "theirs", index_by_pyserini)
    part("dro-trl retrieve, its index", alone, ours, folder, "theirs", 2, 1)
    part("its segments against ours", compare, folder, "ours_2", "theirs_2")
    shutil.rmtree(folder / "corpus", ignore_errors=True)
    part("both in turns", in_turns, folder, "theirs", 3)
    part("merged", alone, merge, folder, "theirs")
    part("dro-trl retrieve, one segment", alone, ours, folder, "theirs", 1, 1)
    part("one segment against ours", compare, folder, "ours_2", "theirs_1")
    print(f"Results: {output}")


if __name__ == "__main__":
    main()
