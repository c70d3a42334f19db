"""What the likelihood of the answer says of the passages, before any training: the signal that DRO learns from.

    python examples/likelihood_signal.py --model "$(dro-trl gemma)" --dataset data/train.top20.jsonl --limit 120

For each question every candidate is scored three times: by the retriever, by query likelihood (an untrained selector
p(z), with K = 1), and by the likelihood of the answer given that passage alone. Prints recall@k of each order and of
their standardised sums, and the probability of the gold passages under the selector and under the posterior
p(z|x, y) that training moves it to, for questions whose answer stands in a candidate and for the others. Questions
without gold passages are left out; `dro-trl retrieve --answer_as_gold` names those that hold the answer.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer

from dro_trl import AnswerScorer, PlackettLucePolicy, cut_passages, is_answerable, load_rag_dataset


def standardised(scores: Tensor) -> Tensor:
    """Return scores of mean 0 and variance 1."""
    return (scores - scores.mean()) / scores.std(correction=0).clamp(min=1e-6)


ORDERS: dict[str, Callable[[dict[str, Tensor]], Tensor]] = {
    "retriever": lambda s: s["retriever"],
    "query likelihood": lambda s: s["selector"],
    "answer's likelihood": lambda s: s["answer"],
    "retriever + answer's likelihood": lambda s: standardised(s["retriever"]) + standardised(s["answer"]),
    "query likelihood + answer's likelihood": lambda s: standardised(s["selector"]) + standardised(s["answer"]),
}


@torch.no_grad()
def measure(model: torch.nn.Module, tokenizer: object, row: dict, k: int, temperature: float) -> dict[str, float]:
    """Return recall@k of each order, and the gold passages' probability a priori and a posteriori."""
    policy = PlackettLucePolicy(tokenizer, 1, item_score="query_likelihood", score_temperature=temperature)
    every = torch.arange(len(row["candidates"]))[None, :, None]
    logps, mask = AnswerScorer(tokenizer).logps(model, [row], every)
    scores = {
        "retriever": torch.tensor([passage["score"] for passage in row["candidates"]]),
        "selector": policy.item_scores(model, policy.encode([row]))[0],
        "answer": (logps * mask).sum(-1)[0, :, 0].float(),
    }
    gold = torch.tensor([passage["id"] in row["gold_ids"] for passage in row["candidates"]])
    figures = {
        name: float(gold[order(scores).topk(k).indices].sum()) / len(set(row["gold_ids"]))
        for name, order in ORDERS.items()
    }
    figures["prior"] = float(scores["selector"].softmax(0)[gold].sum())
    figures["posterior"] = float((scores["selector"] + scores["answer"]).softmax(0)[gold].sum())
    return figures


def main() -> None:
    """Measure, print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a causal LM: folder or hub name")
    parser.add_argument("--dataset", required=True, help="questions with candidates and gold_ids")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--limit", type=int, help="the first LIMIT questions")
    parser.add_argument("--max_passage_tokens", type=int, default=64)
    parser.add_argument("--score_temperature", type=float, default=8.0)
    parser.add_argument("-k", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path("likelihood_signal.json"))
    options = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=options.dtype).eval()
    given = [row for row in load_rag_dataset(options.dataset).to_list() if row["gold_ids"]][: options.limit]
    rows, _ = cut_passages(given, tokenizer, options.max_passage_tokens)
    found = [measure(model, tokenizer, row, options.k, options.score_temperature) for row in tqdm(rows)]
    groups = {
        "all": found,
        "answerable": [figures for row, figures in zip(rows, found, strict=True) if is_answerable(row)],
        "others": [figures for row, figures in zip(rows, found, strict=True) if not is_answerable(row)],
    }
    table = Table("", *(f"{name} ({len(group)})" for name, group in groups.items()))
    means = {
        name: {label: sum(f[label] for f in group) / len(group) for label in found[0]} if group else {}
        for name, group in groups.items()
    }
    for label in found[0]:
        row = (
            f"gold passages' probability, {label}"
            if label in ("prior", "posterior")
            else f"recall@{options.k}, {label}"
        )
        table.add_row(row, *(f"{mean[label]:.3f}" if mean else "" for mean in means.values()))
    Console().print(table)
    sizes = {name: len(group) for name, group in groups.items()}
    options.output.write_text(
        json.dumps({**vars(options), "output": str(options.output), "n": sizes, "means": means}, indent=2)
    )
    print(f"Results: {options.output}")


if __name__ == "__main__":
    main()
