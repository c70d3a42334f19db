"""A search for learning rates, M and the policy's scores with Optuna, by the EM of greedy answers.

python examples/search.py --model "$(dro-trl gemma)" --dataset quickstart/data/train.top8.jsonl
"""

import argparse
from typing import Any

from peft import LoraConfig

from dro_trl import DROConfig, DROTrainer, load_rag_dataset


def space(trial: Any) -> dict[str, Any]:
    """The options of a trial: any of `DROConfig` that decide what is learnt."""
    return {
        "learning_rate": trial.suggest_float("learning_rate", 1e-5, 1e-3, log=True),
        "generator_learning_rate": trial.suggest_float("generator_learning_rate", 1e-5, 1e-3, log=True),
        "num_selections": trial.suggest_categorical("num_selections", [4, 8, 16]),
        "policy_kwargs": {"item_score": trial.suggest_categorical("item_score", ["pointwise", "passage_end"])},
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("--model", "--dataset"):
        parser.add_argument(name, required=True)
    parser.add_argument("--trials", type=int, default=20)
    options = parser.parse_args()
    rows = load_rag_dataset(options.dataset)
    held_out = rows.select(range(0, len(rows), 5))
    args = DROConfig("search", num_selected=2, max_steps=100, predict_with_generate=True, metric_for_best_model="em")
    trainer = DROTrainer(
        model_init=lambda: options.model,  # Both models start from it in each trial.
        args=args,
        train_dataset=rows.select([number for number in range(len(rows)) if number % 5]),
        eval_dataset=held_out,
        peft_config=LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    best = trainer.hyperparameter_search(space, n_trials=options.trials)
    print(f"EM {best.objective:.3f} by {best.hyperparameters}")
