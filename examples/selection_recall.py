"""Recall of what a trained selector selects, against its start and the retriever's order, without any answers.

    python examples/selection_recall.py --model runs/mine --dataset data/dev.top20.jsonl -k 5

Prints recall@k and, with 95 % paired bootstrap intervals over questions, what the trained selector gains; writes
selection_recall.json. *every candidate* is what a selector of these candidates can reach.
"""

import argparse
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from dro_trl import RAGPipeline, prompts
from dro_trl.atomic_write import write_json
from dro_trl.data.load import load_rag_dataset
from dro_trl.evaluation.comparison import mean_interval


def recall(row: dict, selection: list[int]) -> float:
    """Return the share of a question's gold passages that are selected."""
    gold = set(row["gold_ids"])
    return len({row["candidates"][i]["id"] for i in selection} & gold) / len(gold)


def main() -> None:
    """Measure, print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder that `dro-trl train` wrote")
    parser.add_argument(
        "--dataset", required=True, help="questions with candidates; those without gold_ids are left out"
    )
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--limit", type=int, help="the first LIMIT questions")
    parser.add_argument("-k", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("selection_recall.json"))
    options = parser.parse_args()
    rows = [row for row in load_rag_dataset(options.dataset).to_list()[: options.limit] if row["gold_ids"]]
    recalls = {
        "retriever's order": [recall(row, list(range(options.k))) for row in rows],
        "every candidate": [recall(row, list(range(len(row["candidates"])))) for row in rows],
    }
    for name, load in (("start", RAGPipeline.from_start), ("trained", RAGPipeline.from_pretrained)):
        pipeline = load(options.model, dtype=options.dtype, num_selected=options.k)
        cut = rows
        if pipeline.max_passage_tokens is not None:
            cut, _ = prompts.cut_passages(rows, pipeline.tokenizer, pipeline.max_passage_tokens)
        recalls[name] = [
            recall(row, selection) for row, (selection, _) in zip(rows, pipeline.select(cut, 4), strict=True)
        ]
        del pipeline
    table = Table("selection", f"recall@{options.k}", "trained, against it", title=f"{len(rows)} questions")
    results = []
    for name, values in recalls.items():
        gain = np.array(recalls["trained"]) - np.array(values)
        low, high = mean_interval(gain, seed=options.seed).ci95 or (float("nan"),) * 2
        results.append(
            {"system": name, "recall": float(np.mean(values)), "gain": float(gain.mean()), "ci95": [low, high]}
        )
        shown = "" if name == "trained" else f"{gain.mean():+.3f} [{low:+.3f}, {high:+.3f}]"
        table.add_row(name, f"{np.mean(values):.3f}", shown)
    Console().print(table)
    write_json(options.output, {**vars(options), "output": str(options.output), "n": len(rows), "rows": results})
    print(f"Results: {options.output}")


if __name__ == "__main__":
    main()
