"""What a pair takes to answer: CPU seconds to load it, a question alone and in batches, and the process's peak.

    OMP_NUM_THREADS=1 python examples/benchmarks/asking.py --model quickstart/model \
        --dataset quickstart/data/eval.top8.jsonl

One question is answered beforehand. The seconds of a question alone are the mean over eight of them.
"""

import argparse
import resource
import time

import torch

from dro_trl import RAGPipeline, load_rag_dataset
from dro_trl.types import Question

ALONE = 8


def seconds_each(pipeline: RAGPipeline, rows: list[Question], batch_size: int, max_new_tokens: int) -> float:
    """Return the CPU seconds of a question."""
    start = time.process_time()
    pipeline.predict(rows, batch_size=batch_size, max_new_tokens=max_new_tokens)
    return (time.process_time() - start) / len(rows)


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder that `dro-trl train` wrote")
    parser.add_argument("--dataset", required=True, help="questions with candidates")
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--max_new_tokens", type=int, default=8)
    options = parser.parse_args()
    start = time.process_time()
    pipeline = RAGPipeline.from_pretrained(options.model)
    print(f"loading: {time.process_time() - start:.1f} s")
    rows = load_rag_dataset(options.dataset).to_list()
    needed = 1 + max(ALONE, *options.batch_sizes)
    if len(rows) < needed:
        parser.error(f"--dataset {options.dataset} has {len(rows)} questions; {needed} are needed")
    seconds_each(pipeline, rows[:1], 1, options.max_new_tokens)
    alone = seconds_each(pipeline, rows[1 : 1 + ALONE], 1, options.max_new_tokens)
    print(f"a question alone: {alone:.2f} s")
    for size in options.batch_sizes:
        found = seconds_each(pipeline, rows[1 : 1 + size], size, options.max_new_tokens)
        print(f"in a batch of {size}: {found:.2f} s, {alone / found:.2f} times faster")
    print(
        f"peak: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB, {torch.get_num_threads()} threads"
    )


if __name__ == "__main__":
    main()
