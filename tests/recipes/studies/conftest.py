"""Finished rows of a study as their files would hold them, simulated; and a way to run real ones in this process."""

import time

import numpy as np
import pytest
from typer.testing import CliRunner

from dro_trl.cli.app import app
from dro_trl.data.encyclopedia import FictionalEncyclopedia
from dro_trl.evaluation.comparison import compare
from dro_trl.recipes.studies import running
from dro_trl.recipes.studies.plan import Study

METHODS = {
    "dro": ({}, 0.9),
    "grpo": ({"loss_type": "grpo"}, 0.88),
    "dro, no control variate": ({"control_variate": False}, 0.35),
}
"""Per method what it sets, and the probability that its selector finds the gold passage."""


def held_out_questions(num, num_candidates=6):
    """Return questions of the encyclopedia, each with its gold passages among random others."""
    world = FictionalEncyclopedia.generate(0, 4, num)
    rng = np.random.default_rng(0)
    by_id = {passage["id"]: passage for passage in world.corpus}
    rows = []
    for row in world.eval:
        others = [p for p in world.corpus if p["id"] not in row["gold_ids"]]
        chosen = [others[i] for i in rng.choice(len(others), num_candidates - len(row["gold_ids"]), replace=False)]
        candidates = [*(by_id[i] for i in row["gold_ids"]), *chosen]
        rng.shuffle(candidates)
        rows.append({**row, "candidates": [{**p, "score": 1.0} for p in candidates]})
    return rows


def simulate(rng, rows, finds, answers):
    """Return predictions of a system that reads the gold passages, and answers rightly, with given probabilities."""
    predictions = []
    for row in rows:
        ids = [p["id"] for p in row["candidates"]]
        ranking = [*row["gold_ids"], *ids] if rng.random() < finds else ids
        right = rng.random() < answers
        predictions.append(
            {
                "question": row["question"],
                "answers": row["answers"],
                "gold_ids": row["gold_ids"],
                "ranking": list(dict.fromkeys(ranking))[:2],
                "answer": row["answers"][0] if right else "somewhere else",
            }
        )
    return predictions


def simulate_log(rng, finds, steps=12):
    """Return a training log whose recall rises to `finds`."""
    log = []
    for step in range(1, steps + 1):
        done = 1 - np.exp(-3 * step / steps)
        noise = rng.normal(0, 0.02, 6)
        log.append(
            {
                "step": 2 * step,
                "reward": float(-4 + 3.5 * done * finds + 5 * noise[0]),
                "selection_recall": float(np.clip(0.25 + (finds - 0.25) * done + noise[1], 0, 1)),
                "selection_recall/2": float(np.clip(0.5 * done, 0, 1)),
                "ess": float(4 - 2 * done + 5 * noise[2]),
                "entropy": float(3.5 - 2.5 * done + 5 * noise[3]),
                "frac_unique_selections": float(np.clip(1 - 0.6 * done + noise[4], 0, 1)),
                "grad_norm": float(1.5 - done + abs(3 * noise[5])),
            }
        )
    return log


@pytest.fixture
def make_study():
    """A function that makes a study of simulated rows: returns it, its finished rows and its questions."""

    def make(folder, num_questions=40, seeds=(0, 1), methods=METHODS, title="Methods compared", **training):
        questions = held_out_questions(num_questions)
        study = Study(
            recipe={"learning_rate": 1e-3, "num_selections": 8},
            methods={name: given for name, (given, _) in methods.items()},
            eval_dataset_name="eval.jsonl",
            output_dir=str(folder),
            seeds=tuple(seeds),
            title=title,
        )
        rows = []
        for seed in seeds:
            for number, (name, (_, finds)) in enumerate(methods.items()):
                rng = np.random.default_rng([seed, number])
                systems = {
                    "start, retriever order": simulate(np.random.default_rng(7), questions, 0.2, 0.2),
                    "start": simulate(np.random.default_rng(8), questions, 0.25, 0.2),
                    "trained, retriever order": simulate(rng, questions, 0.2, 0.25),
                    "trained": simulate(rng, questions, finds, finds - 0.05),
                }
                if rows:
                    systems = {name: systems[name] for name in list(systems)[2:]}
                scores = compare(systems, target="trained", baselines=[], ks=[1, 2], seed=0, n_resamples=10).systems
                spent = {"seconds": 150.0 + number, "peak_memory_bytes": 3_000_000_000 + seed, "resumed": False}
                counts = {"steps": 40, "questions_drawn": 160, "selections_drawn": 1280, "loop_seconds": 140.0}
                counts |= {"tokens_read": 2_500_000 + number, "peak_device_memory_bytes": 0}
                counts["place"] = "on the CPU in bfloat16 (weights in float32)"
                rows.append(
                    {
                        "method": name,
                        "seed": seed,
                        "data": {},
                        "training": {**spent, **counts, **training},
                        "evaluating": {"seconds": 90.0, "peak_memory_bytes": 2_000_000_000, "resumed": False},
                        "log_history": [*simulate_log(rng, finds), {"step": 24, "train_loss": 1.0}],
                        "systems": scores,
                        "predictions": systems,
                    }
                )
        return study, rows, questions

    return make


@pytest.fixture
def commands(monkeypatch):
    """Runs a row's commands in this process, which spares their imports, and lists them.

    That they do run in processes of their own is tested with `run_command` itself.
    """
    given = []

    def run(arguments, log, lock):
        started = time.monotonic()
        given.append(list(arguments))
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        log.write_text(result.output)
        if result.exit_code:
            raise RuntimeError(f"{arguments[0]} failed: {result.output}") from result.exception
        return {"seconds": time.monotonic() - started, "peak_memory_bytes": 1}

    monkeypatch.setattr(running, "run_command", run)
    return given
