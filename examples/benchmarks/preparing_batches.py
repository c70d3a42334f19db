"""What it takes to make a question's texts into what the models read, by the process that trains.

    OMP_NUM_THREADS=1 python examples/benchmarks/preparing_batches.py --model "$(dro-trl gemma)" \
        --dataset quickstart/data/train.top8.jsonl

For each question: the selector's input (`encode` of the policy), and the generator's prompts for M random selections
of K candidates. Milliseconds of the processor with every text tokenized whole; with lines kept, when they are first
seen; and when they come again, as in a second epoch. With `dataloader_num_workers`, the selector's input is made by
workers ahead of time.
"""

import argparse
import os
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import process_time
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from selector_memory import POLICIES

from dro_trl import AnswerScorer, load_rag_dataset, load_tokenizer
from dro_trl.files.writing import write_json
from dro_trl.lm import encoding
from dro_trl.lm.tokens import line_tokens
from dro_trl.policies.base import load_policy


def milliseconds(work: Callable[[], Any]) -> float:
    """Return the processor's time for a piece of work."""
    start = process_time()
    work()
    return 1e3 * (process_time() - start)


def measure(model: str, rows: list[Any], policy: str, num_selected: int, num_selections: int) -> dict[str, Any]:
    """Return for each way the milliseconds of each question, for the selector and for the generator."""
    generator = torch.Generator().manual_seed(0)
    drawn = [
        [torch.randperm(len(row["candidates"]), generator=generator)[:num_selected] for _ in range(num_selections)]
        for row in rows
    ]
    found: dict[str, Any] = {}
    path, kwargs = POLICIES[policy]
    for way in ("whole texts", "lines, first time", "lines, again"):
        if way != "lines, again":
            tokenizer = load_tokenizer(model)
            chooser = load_policy(path, tokenizer, num_selected, kwargs)
            scorer = AnswerScorer(tokenizer)
            kept = line_tokens(tokenizer)
            assert kept.by_line, f"the tokens of {model} depend on other lines"
            kept.by_line = way != "whole texts"
        found[way] = {"selector": [], "generator": []}
        for row, selections in zip(rows, drawn, strict=True):
            texts = [scorer.prompt(row, selection.tolist()) for selection in selections]
            found[way]["selector"].append(milliseconds(partial(chooser.encode, [row])))
            found[way]["generator"].append(milliseconds(partial(encoding.encode_all, tokenizer, texts)))
    return found


def main() -> None:
    """Measure, print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="whose tokenizer is used")
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--policy", choices=POLICIES, default="pointwise")
    parser.add_argument("--num_questions", type=int, default=50)
    parser.add_argument("--num_selected", type=int, default=2)
    parser.add_argument("--num_selections", type=int, default=16)
    parser.add_argument("--output", type=Path, default=Path("preparing_batches.json"))
    options = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # One thread, as the rest.
    torch.set_num_threads(1)
    rows = load_rag_dataset(options.dataset).select(range(options.num_questions)).to_list()
    found = measure(options.model, rows, options.policy, options.num_selected, options.num_selections)
    shown = Table("ms a question, median", *found)
    for part in ("selector", "generator"):
        shown.add_row(part, *(f"{statistics.median(times[part]):.2f}" for times in found.values()))
    write_json(options.output, found)
    Console(width=120).print(shown)
    print(f"Results: {options.output}")


if __name__ == "__main__":
    main()
