"""CPU time and memory of each command against the number of rows, each in a process of its own.

    OMP_NUM_THREADS=1 python examples/benchmarks/many_rows.py --num_rows 1000 10000 100000

Invented questions with two passages each. `prepare` converts them from HotpotQA's format, `retrieve` adds five of
20,000 passages, `train` makes one step on that with a tiny random pair, `evaluate` answers its first `--evaluated`
rows. CPU seconds are those of the command and what it starts, less those of the same command on ten rows, so that
imports are left out; peak memory is the largest process's resident set, of which mapped files are part.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from matplotlib import style
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from small_models import TINY, random_model, word_tokenizer

from dro_trl.evaluation.plots import COLOURS, STYLE, save_figure
from dro_trl.files.writing import write_json

FEWEST = 10
STAGES = ("prepare", "retrieve", "train", "evaluate")
PASSAGES = 20_000
NOISE = 0.2
"""CPU seconds by which two runs of the same command differ; what is less is not drawn."""


def words(rng: random.Random, count: int) -> str:
    """Return words of the tokenizer's, some of them rare."""
    return " ".join(f"w{int(rng.paretovariate(0.5)) % 20_000}" for _ in range(count))


def write_data(folder: Path, num_rows: int) -> None:
    """Write the corpus and the questions, each of which asks for the words of a passage."""
    rng = random.Random(0)
    passages = [{"id": str(i), "title": f"w{i}", "text": words(rng, 60)} for i in range(PASSAGES)]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(passage) + "\n" for passage in passages))
    with (folder / "hotpot.jsonl").open("w") as file:
        for number in range(num_rows):
            gold, other = rng.choices(passages, k=2)
            asked = " ".join(rng.choices(gold["text"].split(), k=8))
            row: dict[str, object] = {"_id": f"q{number}", "question": f"{asked} ?", "answer": words(rng, 1)}
            row |= {"type": "bridge", "supporting_facts": [[gold["title"], 0]], "level": "easy"}
            row["context"] = [[passage["title"], [passage["text"]]] for passage in (gold, other)]
            file.write(json.dumps(row) + "\n")


def commands(folder: Path, evaluated: int) -> Iterator[tuple[str, list[str]]]:
    """Return the stages in their order, and their words behind `dro-trl`."""
    rows, found = folder / "rows.jsonl", folder / "found.jsonl"
    index = ["--index_dir", str(folder / "index")]
    corpus = ["--corpus", str(folder / "corpus.jsonl")]
    yield "index", ["index", *corpus, *index]
    written = ["--input", str(folder / "hotpot.jsonl"), "--output", str(rows)]
    yield "prepare", ["prepare", "--format", "hotpotqa", *written, *corpus]
    yield "retrieve", ["retrieve", *index, "--input", str(rows), "--output", str(found), "--num_candidates", "5"]
    pair = ["--model_name_or_path", str(folder / "start"), "--output_dir", str(folder / "pair")]
    sizes = [
        "--num_candidates",
        "5",
        "--num_selected",
        "2",
        "--num_selections",
        "2",
        "--per_device_train_batch_size",
        "1",
    ]
    sizes += ["--policy", "dro_trl.AutoregressivePolicy"]
    once = ["--max_steps", "1", "--report_to", "none", "--use_cpu", "true", "--save_strategy", "no"]
    yield "train", ["train", *pair, "--dataset_name", str(found), *sizes, *once]
    answers = ["--max_eval_samples", str(evaluated), "--max_new_tokens", "1", "--no_start"]
    pair = ["--model_name_or_path", str(folder / "pair"), "--dataset_name", str(found)]
    yield "evaluate", ["evaluate", *pair, *answers, "--output_dir", str(folder / "results")]


RUNNER = """
import json, resource, subprocess, sys
status = subprocess.run([sys.executable, "-m", "dro_trl", *sys.argv[1:]], stdout=sys.stderr).returncode
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([status, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024]))
"""
"""A process starts with the peak of the one that starts it: this one is small."""


def run(arguments: list[str]) -> dict[str, float]:
    """Run a command; return its CPU seconds, and the peak of its largest process in MiB."""
    done = subprocess.run([sys.executable, "-c", RUNNER, *arguments], capture_output=True, text=True, check=True)
    status, seconds, peak = json.loads(done.stdout)
    if status:
        raise RuntimeError(f"dro-trl {arguments[0]} ended with {status}: {done.stderr[-500:]}")
    return {"seconds": seconds, "peak_mib": peak}


def measure(num_rows: int, evaluated: int) -> dict[str, dict[str, float]]:
    """Return what every stage takes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_data(folder, num_rows)
        start = folder / "start"
        random_model("qwen2", **TINY).save_pretrained(start)
        word_tokenizer().save_pretrained(start)
        return {stage: run(given) for stage, given in commands(folder, min(num_rows, evaluated))}


def plot(found: dict[int, dict[str, dict[str, float]]], path: Path) -> Path:
    """Draw seconds beyond the fewest rows, and peaks, against rows."""
    with style.context(STYLE):
        figure = Figure(figsize=(8, 3.4), layout="constrained")
        panels = figure.subplots(1, 2)
        sizes = [size for size in found if size != FEWEST]
        for stage, colour in zip(STAGES, COLOURS, strict=False):
            line = {"color": colour, "marker": "o", "markersize": 4, "label": stage}
            beyond = {size: found[size][stage]["seconds"] - found[FEWEST][stage]["seconds"] for size in sizes}
            told = [size for size in sizes if beyond[size] > NOISE]
            panels[0].plot(told, [beyond[size] for size in told], **line)
            panels[1].plot(sizes, [found[size][stage]["peak_mib"] for size in sizes], **line)
        panels[0].set(xscale="log", yscale="log", xlabel="rows", ylabel="CPU seconds, imports left out")
        panels[1].set(xscale="log", ylim=(0, None), xlabel="rows", ylabel="peak memory (MiB)")
        panels[0].legend()
        return save_figure(figure, path)


def main() -> None:
    """Measure, print, write JSON as it comes, and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num_rows", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--evaluated", type=int, default=1000, help="of the rows, at most")
    parser.add_argument("--output", type=Path, default=Path("many_rows.json"))
    parser.add_argument("--plot", type=Path, default=Path("many_rows.png"))
    options = parser.parse_args()
    found: dict[int, dict[str, dict[str, float]]] = {}
    table = Table("stage", *(f"{size:,} rows: s, MiB" for size in options.num_rows), "s a million rows")
    for size in [FEWEST, *options.num_rows]:
        found[size] = measure(size, options.evaluated)
        write_json(options.output, {"evaluated": options.evaluated, "rows": found})
    for stage in STAGES:
        beyond = [found[size][stage]["seconds"] - found[FEWEST][stage]["seconds"] for size in options.num_rows]
        cells = (
            f"{s:.1f}, {found[size][stage]['peak_mib']:.0f}" for s, size in zip(beyond, options.num_rows, strict=True)
        )
        table.add_row(stage, *cells, f"{beyond[-1] / options.num_rows[-1] * 1e6:.0f}")
    Console(width=110).print(table)
    print(f"Results: {options.output}\nPlot: {plot(found, options.plot)}")


if __name__ == "__main__":
    main()
