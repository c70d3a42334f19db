"""What a study's finished rows amount to, as plain JSON: scores, comparisons, costs, and examples side by side."""

import importlib.metadata
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from dro_trl.evaluation.scores import Prediction, score_predictions
from dro_trl.metrics import exact_match
from dro_trl.options.masking import masked
from dro_trl.recipes.studies.plan import OWN_ORDER, START_SYSTEMS, Study, plan_rows
from dro_trl.recipes.studies.statistics import (
    BOOTSTRAP,
    UNTRAINED,
    SeededComparison,
    SeededScores,
    compare_seeded,
    summarise,
)
from dro_trl.types import Question

ROW_FIELDS = ("method", "seed", "data", "training", "evaluating")

Scores = dict[str, dict[str, SeededScores]]
"""Per system, metric and training seed the score of every question."""


def score_rows(rows: Sequence[Mapping[str, Any]]) -> Scores:
    """Score every system of a study, question by question.

    Args:
        rows: What the finished rows' `row.json` hold; the first has the untrained systems too.

    Raises:
        ValueError: If a row was evaluated on other questions than the first.
    """
    names = {"trained": "{}", "trained, retriever order": f"{{}}{OWN_ORDER}"}
    found: dict[str, dict[int, list[Prediction]]] = {
        name: {UNTRAINED: rows[0]["predictions"][name]} for name in START_SYSTEMS
    }
    expected = [prediction["question"] for prediction in rows[0]["predictions"]["trained"]]
    for row in rows:
        if [prediction["question"] for prediction in row["predictions"]["trained"]] != expected:
            raise ValueError(
                f"{row['method']!r}, seed {row['seed']}, was evaluated on other questions than {rows[0]['method']!r}, "
                f"seed {rows[0]['seed']}; delete its folder to run it again"
            )
        for system, name in names.items():
            found.setdefault(name.format(row["method"]), {})[row["seed"]] = row["predictions"][system]
    ks = [int(name.partition("@")[2]) for name in rows[0]["systems"]["trained"] if name.startswith("recall@")]
    scores: Scores = {}
    for name, by_seed in found.items():
        scored = {seed: score_predictions(predictions, ks) for seed, predictions in by_seed.items()}
        metrics = next(iter(scored.values()))
        scores[name] = {metric: {seed: values[metric] for seed, values in scored.items()} for metric in metrics}
    return scores


def compare_methods(scores: Scores, methods: Sequence[str]) -> list[SeededComparison]:
    """Compare every method with the first, with the retriever's order, and with the retriever's order it trained for.

    Recall is compared once with the retriever's order, which does not depend on who reads it.
    """
    first, *others = methods
    recall = max((name for name in scores[first] if name.startswith("recall@")), key=lambda name: int(name[7:]))
    pairs: list[tuple[str, str, tuple[str, ...]]] = [(method, first, (recall, "em", "f1")) for method in others]
    pairs += [(method, START_SYSTEMS[0], (recall, "em", "f1")) for method in methods]
    pairs += [(method, f"{method}{OWN_ORDER}", ("em", "f1")) for method in methods]
    found = [compare_seeded(scores, system, other, metric) for system, other, names in pairs for metric in names]
    return [comparison for comparison in found if comparison is not None]


def costs(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what the rows of one method took, and how their gradient's norm spread.

    Run times are of rows that ran without interruption; None where there is none.
    """
    training = [row["training"] for row in rows]
    whole = [record["seconds"] for record in training if not record["resumed"]]
    norms = [[log["grad_norm"] for log in row["log_history"] if "grad_norm" in log] for row in rows]
    spreads = [(float(np.mean(norm)), float(np.std(norm, ddof=1))) for norm in norms if len(norm) > 1]
    counts = ("steps", "questions_drawn", "selections_drawn")
    return {
        "rows": len(rows),
        "rows_resumed": len(rows) - len(whole),
        "train_seconds": float(np.mean(whole)) if whole else None,
        "evaluate_seconds": float(np.mean([row["evaluating"]["seconds"] for row in rows])),
        "train_peak_memory_bytes": max(record["peak_memory_bytes"] for record in training),
        "train_peak_device_memory_bytes": max(record["peak_device_memory_bytes"] for record in training),
        "tokens_read": float(np.mean([record["tokens_read"] for record in training])),
        **{name: sorted({record[name] for record in training}) for name in counts},
        "grad_norm_mean": float(np.mean([mean for mean, _ in spreads])) if spreads else None,
        "grad_norm_sd": float(np.mean([sd for _, sd in spreads])) if spreads else None,
    }


def pick_examples(rows: Sequence[Mapping[str, Any]], questions: Sequence[Question], most: int) -> list[dict[str, Any]]:
    """Return the first held-out questions on which methods differ, with what each read and answered.

    Questions that some methods answer and others do not come first, then those on which they only read different
    passages.

    Args:
        rows: Finished rows of one seed.
        questions: The held-out questions, in the order of the predictions.
        most: How many.
    """
    systems = {START_SYSTEMS[0]: rows[0]["predictions"].get(START_SYSTEMS[0])}
    systems |= {row["method"]: row["predictions"]["trained"] for row in rows}
    systems = {name: predictions for name, predictions in systems.items() if predictions}
    compared = [systems[row["method"]] for row in rows]
    by_answer, by_passages = [], []
    for number in range(len(compared[0])):
        predictions = [system[number] for system in compared]
        if len({exact_match(p["answer"], p["answers"]) for p in predictions}) > 1:
            by_answer.append(number)
        elif len({tuple(p["ranking"]) for p in predictions}) > 1:
            by_passages.append(number)
    return [_example(number, questions[number], systems) for number in [*by_answer, *by_passages][:most]]


def _example(number: int, question: Question, systems: Mapping[str, Sequence[Prediction]]) -> dict[str, Any]:
    passages = {passage["id"]: passage for passage in question["candidates"]}
    gold = set(question.get("gold_ids") or ())
    shown = []
    for name, predictions in systems.items():
        prediction = predictions[number]
        read = [
            {"title": passages[i]["title"], "text": passages[i]["text"], "gold": i in gold}
            for i in prediction["ranking"]
        ]
        right = bool(exact_match(prediction["answer"], prediction["answers"]))
        shown.append({"system": name, "answer": prediction["answer"], "right": right, "passages": read})
    return {"row": number + 1, "question": question["question"], "answers": question["answers"], "systems": shown}


def summarise_study(
    study: Study, rows: Sequence[Mapping[str, Any]], questions: Sequence[Question], command: str
) -> dict[str, Any]:
    """Return what `report.json` holds.

    Args:
        study: What was to be run.
        rows: What the finished rows' `row.json` hold, in the order of `plan_rows`, the first among them.
        questions: The held-out questions.
        command: That was given.
    """
    scores = score_rows(rows)
    by_method = {method: [row for row in rows if row["method"] == method] for method in study.methods}
    by_method = {method: found for method, found in by_method.items() if found}
    comparisons = compare_methods(scores, list(by_method))
    spent = {method: costs(found) for method, found in by_method.items()}
    n = len(questions)
    with_gold = sum(bool(question.get("gold_ids")) for question in questions)
    of_first_seed = [row for row in rows if row["seed"] == rows[0]["seed"]]
    return {
        "title": study.title,
        "command": command,
        "versions": {name: importlib.metadata.version(name) for name in ("dro-trl", "torch", "transformers", "trl")},
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
        "trained": sorted({row["training"]["place"] for row in rows if row["training"].get("place")}),
        "seeds": list(study.seeds),
        "rows_finished": len(rows),
        "rows_planned": len(plan_rows(study)),
        "equal_samples": len({tuple(map(tuple, (s["steps"], s["selections_drawn"]))) for s in spent.values()}) == 1,
        "methods": masked(study.methods),
        "recipe": masked(study.recipe),
        "evaluation": study.evaluation,
        "systems": {
            name: {**summarise(system), "n": n, "n_with_gold": with_gold, "seeds": _seeds(system)}
            for name, system in scores.items()
        },
        "comparisons": [{**asdict(c), "verdict": c.verdict, "sentence": c.sentence} for c in comparisons],
        "bootstrap": BOOTSTRAP,
        "costs": spent,
        "rows": [{name: row[name] for name in (*ROW_FIELDS, "systems")} for row in rows],
        "examples": pick_examples(of_first_seed, questions, study.num_examples),
    }


def _seeds(system: Mapping[str, SeededScores]) -> list[int]:
    return sorted(seed for seed in system["em"] if seed != UNTRAINED)
