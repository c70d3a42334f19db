"""Rewards of one's own: a function, a weighted sum of several, and the same from a recipe by dotted path.

python examples/custom_reward.py --model "$(dro-trl gemma)" --dataset quickstart/data/train.top8.jsonl
dro-trl train --config examples/custom_reward.yaml --model_name_or_path "$(dro-trl gemma)"
"""

import argparse
from typing import Any

from peft import LoraConfig

from dro_trl import AnswerLogLikelihood, DROConfig, DROTrainer, has_answer, load_rag_dataset


def answer_in_selection(
    selections: list[list[int]], candidates: list[list[dict[str, Any]]], answers: list[list[str]], **kwargs: Any
) -> list[float]:
    """Reward 1 for a selection in which an alias of the answer can be read, else 0."""
    return [
        float(any(has_answer(passages[index]["text"], aliases) for index in selection))
        for selection, passages, aliases in zip(selections, candidates, answers, strict=True)
    ]


def main() -> None:
    """Train with the function above and the answer's log-likelihood, weighted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="the selector's and the generator's start: folder or hub name")
    parser.add_argument("--dataset", required=True, help="questions with candidates")
    parser.add_argument("--output_dir", default="custom_reward")
    parser.add_argument("--max_steps", type=int, default=100)
    options = parser.parse_args()
    trainer = DROTrainer(
        model=options.model,
        args=DROConfig(
            options.output_dir,
            num_selected=2,
            max_steps=options.max_steps,
            per_device_train_batch_size=4,
            report_to="none",
            reward_weights=[1.0, 5.0],
        ),
        train_dataset=load_rag_dataset(options.dataset),
        reward_funcs=[AnswerLogLikelihood(), answer_in_selection],
        peft_config=LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    trainer.train()
    trainer.save_model()


if __name__ == "__main__":
    main()
