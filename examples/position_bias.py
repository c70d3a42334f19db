"""How far an untrained selector's item scores follow the position of a passage instead of what it says.

    python examples/position_bias.py --model "$(dro-trl gemma)" --dataset quickstart/data/eval.top8.jsonl -k 2

Candidates are shown in random order. Prints, with 95 % bootstrap intervals over questions, the correlation of a
question's scores with their positions, and recall@k of the order they give; writes position_bias.json.
"""

import argparse
import json
import random
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from scipy.stats import bootstrap
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer

from dro_trl import PlackettLucePolicy, cut_passages, load_rag_dataset

ITEM_SCORES = ("pointwise", "query_likelihood", "passage_end")


@torch.no_grad()
def measure(policy: PlackettLucePolicy, model: torch.nn.Module, rows: list, k: int) -> dict[str, list[float]]:
    """Return, for each question, the correlation of scores and positions, and recall@k."""
    figures: dict[str, list[float]] = {"correlation": [], "recall": []}
    for row in tqdm(rows, desc=policy.item_score):
        scores = policy.item_scores(model, policy.encode([row]))[0]
        positions = torch.arange(len(scores), dtype=scores.dtype)
        figures["correlation"].append(float(torch.corrcoef(torch.stack([scores, positions]))[0, 1]))
        found = {row["candidates"][i]["id"] for i in scores.topk(k).indices.tolist()}
        figures["recall"].append(len(found & set(row["gold_ids"])) / len(row["gold_ids"]))
    return figures


def main() -> None:
    """Measure, print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a causal LM: folder or hub name")
    parser.add_argument("--dataset", required=True, help="questions with candidates and gold_ids")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--limit", type=int, default=100, help="the first LIMIT questions")
    parser.add_argument("--max_passage_tokens", type=int, help="cut passages to so many tokens")
    parser.add_argument("-k", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("position_bias.json"))
    options = parser.parse_args()
    shuffle = random.Random(options.seed).sample
    rows = [
        {**row, "candidates": shuffle(row["candidates"], len(row["candidates"]))}
        for row in load_rag_dataset(options.dataset).to_list()[: options.limit]
    ]
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    if options.max_passage_tokens:
        rows, _ = cut_passages(rows, tokenizer, options.max_passage_tokens)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=options.dtype).eval()
    table = Table(
        "item score", "measure", "mean", "95 % interval", title=f"{len(rows)} questions, seed {options.seed}"
    )
    results = []
    for item_score in ITEM_SCORES:
        for name, values in measure(
            PlackettLucePolicy(tokenizer, options.k, item_score), model, rows, options.k
        ).items():
            interval = bootstrap((np.array(values),), np.mean, rng=options.seed).confidence_interval
            ci95 = [float(interval.low), float(interval.high)]
            results.append({"item_score": item_score, "measure": name, "mean": float(np.mean(values)), "ci95": ci95})
            table.add_row(item_score, name, f"{np.mean(values):+.2f}", f"[{ci95[0]:+.2f}, {ci95[1]:+.2f}]")
    Console().print(table)
    options.output.write_text(
        json.dumps({**vars(options), "output": str(options.output), "n": len(rows), "rows": results}, indent=2)
    )
    print(f"Results: {options.output}")


if __name__ == "__main__":
    main()
