"""Whether a passage that was chosen says which comes next, before any training: the link of `ConditionalScoresPolicy`.

    python examples/link_signal.py --model "$(dro-trl gemma)" --dataset two_hop/data/eval.top8.jsonl --limit 40

Given the first of a question's two gold passages (in reading order), how often is the second of them first among the
other candidates? By the link of so many first tokens alone, and by conditional query likelihood. Questions without two
gold passages among their candidates are left out.
"""

import argparse

import torch
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer

from dro_trl import ConditionalScoresPolicy, load_rag_dataset

READINGS = {f"link, first {n} tokens": {"link_tokens": n, "score_temperature": 1e9} for n in (1, 2, 3, 8, 32)}
READINGS["query likelihood"] = {"item_score": "query_likelihood", "link_weight": None}


def gold_places(row: dict) -> list[int]:
    """Return where a question's gold passages are among its candidates, in reading order."""
    ids = [passage["id"] for passage in row["candidates"]]
    return [ids.index(gold) for gold in row["gold_ids"] if gold in ids]


@torch.no_grad()
def found(policy: ConditionalScoresPolicy, model: torch.nn.Module, row: dict) -> bool:
    """Whether the second gold passage is the likeliest behind the first."""
    first, second = gold_places(row)
    others = [i for i in range(len(row["candidates"])) if i != first]
    pairs = torch.tensor([[[first, i] for i in others]])
    return others[int(policy.logps(model, policy.encode([row]), pairs).logps[0].argmax())] == second


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--limit", type=int, default=None)
    options = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype="float32").eval()
    rows = [row for row in load_rag_dataset(options.dataset).to_list() if len(gold_places(row)) == 2][: options.limit]
    if not rows:
        parser.error(f"--dataset {options.dataset} has no question with two gold passages among its candidates")
    for name, kwargs in READINGS.items():
        policy = ConditionalScoresPolicy(tokenizer, 2, **kwargs)
        hits = sum(found(policy, model, row) for row in rows)
        Console(highlight=False).print(f"{name}: {hits} of {len(rows)}")
