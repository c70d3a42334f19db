"""What a study's finished rows amount to, as plain JSON: scores, comparisons, costs, and examples side by side."""

import importlib.metadata
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

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

Scores = dict[str, dict[str, dict[int, NDArray[np.float64]]]]
"""Per system, metric and training seed the score of every question."""


def read_rows(rows: Iterable[Mapping[str, Any]]) -> tuple[list[dict[str, Any]], Scores]:
    """Score every system of a study, question by question, and return the rows without their predictions.

    In their place each has `read`, (num_questions,) int64: equal where the trained selector's passages are.

    Args:
        rows: What the finished rows' `row.json` hold; the first has the untrained systems too.

    Raises:
        ValueError: If a row was evaluated on other questions than the first.
    """
    read: list[dict[str, Any]] = []
    scores: Scores = {}
    expected, ks = [], []
    for row in rows:
        predictions = row["predictions"]
        asked = [prediction["question"] for prediction in predictions["trained"]]
        names = {"trained": row["method"], "trained, retriever order": f"{row['method']}{OWN_ORDER}"}
        seeds = dict.fromkeys(names, row["seed"])
        if not read:
            expected = asked
            ks = [int(name.partition("@")[2]) for name in row["systems"]["trained"] if name.startswith("recall@")]
            names = dict.fromkeys(START_SYSTEMS) | names
            seeds |= dict.fromkeys(START_SYSTEMS, UNTRAINED)
        elif asked != expected:
            raise ValueError(
                f"{row['method']!r}, seed {row['seed']}, was evaluated on other questions than {read[0]['method']!r}, "
                f"seed {read[0]['seed']}; delete its folder to run it again"
            )
        for system, name in names.items():
            for metric, values in score_predictions(predictions[system], ks).items():
                scores.setdefault(name or system, {}).setdefault(metric, {})[seeds[system]] = values
        light = {name: value for name, value in row.items() if name != "predictions"}
        light["read"] = np.array([hash(tuple(prediction["ranking"])) for prediction in predictions["trained"]])
        read.append(light)
    return read, scores


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


def pick_examples(
    rows: Iterable[Mapping[str, Any]],
    read: Sequence[Mapping[str, Any]],
    scores: Scores,
    questions: Sequence[Question],
    most: int,
) -> list[dict[str, Any]]:
    """Return the first held-out questions on which methods of the first seed differ, with what each read and answered.

    Questions that some methods answer and others do not come first, then those on which they only read different
    passages.

    Args:
        rows: Finished rows; gone through once, one at a time.
        read: The same without predictions, as `read_rows` returns them.
        scores: Of all systems.
        questions: The held-out questions, in the order of the predictions.
        most: How many.
    """
    seed = read[0]["seed"]
    of_seed = [row for row in read if row["seed"] == seed]
    right = np.stack([scores[row["method"]]["em"][seed] for row in of_seed])
    rankings = np.stack([row["read"] for row in of_seed])
    by_answer, by_passages = ((found != found[0]).any(0) for found in (right, rankings))
    numbers = [*map(int, [*np.flatnonzero(by_answer), *np.flatnonzero(by_passages & ~by_answer)][:most])]
    systems: dict[str, dict[int, Prediction]] = {}
    for row in rows:
        if row["seed"] != seed:
            continue
        shown = {row["method"]: row["predictions"]["trained"]}
        if not systems:
            shown = {START_SYSTEMS[0]: row["predictions"][START_SYSTEMS[0]]} | shown
        systems |= {name: {n: predictions[n] for n in numbers} for name, predictions in shown.items()}
    return [_example(number, questions[number], systems) for number in numbers]


def _example(number: int, question: Question, systems: Mapping[str, Mapping[int, Prediction]]) -> dict[str, Any]:
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
    study: Study, rows: Iterable[Mapping[str, Any]], questions: Sequence[Question], command: str
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return what `report.json` holds, and the rows without their predictions.

    Args:
        study: What was to be run.
        rows: What the finished rows' `row.json` hold, in the order of `plan_rows`, the first among them; gone through
            several times, one at a time.
        questions: The held-out questions.
        command: That was given.
    """
    read, scores = read_rows(rows)
    by_method = {method: [row for row in read if row["method"] == method] for method in study.methods}
    by_method = {method: found for method, found in by_method.items() if found}
    comparisons = compare_methods(scores, list(by_method))
    spent = {method: costs(found) for method, found in by_method.items()}
    n = len(questions)
    with_gold = int(np.isfinite(scores[START_SYSTEMS[0]]["mrr"][UNTRAINED]).sum())
    report = {
        "title": study.title,
        "command": command,
        "versions": {name: importlib.metadata.version(name) for name in ("dro-trl", "torch", "transformers", "trl")},
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
        "trained": sorted({row["training"]["place"] for row in read if row["training"].get("place")}),
        "seeds": list(study.seeds),
        "rows_finished": len(read),
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
        "rows": [{name: row[name] for name in (*ROW_FIELDS, "systems")} for row in read],
        "examples": pick_examples(rows, read, scores, questions, study.num_examples),
    }
    return report, read


def _seeds(system: Mapping[str, SeededScores]) -> list[int]:
    return sorted(seed for seed in system["em"] if seed != UNTRAINED)
