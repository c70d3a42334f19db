"""What a trained selector selects, against its start and the retriever's order, without any answers.

    python examples/selection_recall.py --model runs/mine --dataset data/dev.top20.jsonl -k 5

Prints success@1, recall@k, MRR and the share with all gold passages selected and, with 95 % paired bootstrap intervals
over questions, what the trained selector and its start gain; writes selection_recall.json. *every candidate* is what a
selector of these candidates can reach. `--untrained '{"item_score": "query_likelihood"}'` adds the start with another
policy, any number of times; `"policy"` there names another class than `PlackettLucePolicy`. `--start_only`
leaves the trained selector out, `--num_gold 2` questions but those with two gold passages that were both retrieved.
"""

import argparse
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import dro_trl
from dro_trl import (
    Prediction,
    Question,
    RAGPipeline,
    Scores,
    Selection,
    load_rag_dataset,
    load_tokenizer,
    mean_interval,
    score_predictions,
)


def score(rows: Sequence[Question], selections: Sequence[Selection], k: int) -> Scores:
    """Return success@1, recall@k, MRR and whether all gold passages are in it, of each question's selection."""
    predictions = [
        Prediction(
            question=row["question"],
            answers=row["answers"],
            gold_ids=row.get("gold_ids"),
            ranking=[row["candidates"][i]["id"] for i in selection],
            answer="",
        )
        for row, selection in zip(rows, selections, strict=True)
    ]
    scores = score_predictions(predictions, [1, k], ["success", "all_gold"])
    return {name: scores[name] for name in ("success@1", f"recall@{k}", "mrr", "all_gold")}


def all_found(row: Question) -> bool:
    """Return whether every gold passage of a question is among its candidates."""
    return set(row["gold_ids"] or ()) <= {passage["id"] for passage in row["candidates"]}


def main() -> None:
    """Measure, print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder that `dro-trl train` wrote")
    parser.add_argument(
        "--dataset", required=True, help="questions with candidates; those without gold_ids are left out"
    )
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--num_gold", type=int, help="only questions with so many gold passages, all retrieved")
    parser.add_argument("--limit", type=int, help="the first LIMIT questions")
    parser.add_argument("-k", type=int, default=5)
    parser.add_argument("--untrained", action="append", default=[], help="arguments of a policy, as JSON")
    parser.add_argument("--start_only", action="store_true", help="without what was trained")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("selection_recall.json"))
    options = parser.parse_args()
    rows = [row for row in load_rag_dataset(options.dataset).to_list()[: options.limit] if row["gold_ids"]]
    if options.num_gold is not None:
        rows = [row for row in rows if len(row["gold_ids"]) == options.num_gold and all_found(row)]
    if not rows:
        parser.error(f"--dataset {options.dataset} has no such question")
    scores = {"retriever's order": score(rows, [list(range(options.k)) for _ in rows], options.k)}
    tokenizer = load_tokenizer(str(Path(options.model) / "selector"))
    start = partial(RAGPipeline.from_start, options.model, dtype=options.dtype)
    loads = {"start": partial(start, num_selected=options.k)}
    for kwargs in options.untrained:
        given = json.loads(kwargs)
        policy = getattr(dro_trl, given.pop("policy", "PlackettLucePolicy"))(tokenizer, options.k, **given)
        loads[f"untrained, {kwargs}"] = partial(start, policy=policy)
    if not options.start_only:
        loads["trained"] = partial(
            RAGPipeline.from_pretrained, options.model, dtype=options.dtype, num_selected=options.k
        )
    for name, load in loads.items():
        pipeline = load()
        selected = [selection for selection, _ in pipeline.select(pipeline.prepare(rows), 4)]
        scores[name] = score(rows, selected, options.k)
        del pipeline
    every = max(len(row["candidates"]) for row in rows)
    ceiling = score(rows, [list(range(len(row["candidates"]))) for row in rows], every)[f"recall@{every}"].mean()
    gains = {"trained": "", "start": "start_"}
    if options.start_only:
        del gains["trained"]
    table = Table(
        "selection", "metric", "mean", *(f"{name}, against it" for name in gains), title=f"{len(rows)} questions"
    )
    results = []
    for name, metrics in scores.items():
        for metric, values in metrics.items():
            result: dict[str, Any] = {"system": name, "metric": metric, "mean": float(values.mean())}
            for system, key in gains.items():
                gain = scores[system][metric] - values
                interval = mean_interval(gain, seed=options.seed).ci95 or (float("nan"),) * 2
                result |= {f"{key}gain": float(gain.mean()), f"{key}ci95": list(interval)}
            results.append(result)
            shown = (
                "{:+.3f} [{:+.3f}, {:+.3f}]".format(result[f"{key}gain"], *result[f"{key}ci95"]) if name != of else ""
                for of, key in gains.items()
            )
            table.add_row(name, metric, f"{values.mean():.3f}", *shown)
    table.add_row("every candidate", f"recall@{every}", f"{ceiling:.3f}")
    Console().print(table)
    content = {**vars(options), "output": str(options.output), "n": len(rows), "every_candidate": float(ceiling)}
    options.output.write_text(json.dumps(content | {"rows": results}, indent=2))
    print(f"Results: {options.output}")


if __name__ == "__main__":
    main()
