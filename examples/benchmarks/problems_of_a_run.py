"""Problems for `distinct_selections.py` from a run: what both models say of questions as the quickstart trains them.

    python examples/benchmarks/problems_of_a_run.py --model "$(dro-trl gemma)" \
        --dataset quickstart/data/train.top8.jsonl
    python examples/benchmarks/distinct_selections.py --problems problems_of_a_run.jsonl

Trains as `dro-trl quickstart` does. Before each of the steps of `--at`, for the first questions of the dataset: the
scores of the candidates, and the generator's log-likelihood of the answer behind every selection of two of them.
"""

import argparse
import itertools
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from dro_trl import DROTrainer, Question, load_rag_dataset, reduce_answer_logps
from dro_trl.cli.quickstart import TWO_HOPS, make_trainer


@torch.no_grad()
def problem(trainer: DROTrainer, row: Question) -> dict[str, list[float]]:
    """Return the scores of a question's N items in nats, and the rewards of all its selections."""
    num_items = len(row["candidates"])
    selections = torch.tensor([list(itertools.permutations(range(num_items), trainer.args.num_selected))])
    with trainer.compute_loss_context_manager():
        output = trainer.model([row], selections=selections.to(trainer.model.device))
    assert output.answer_logps is not None
    assert output.answer_mask is not None
    args = trainer.args
    rewards = reduce_answer_logps(
        output.answer_logps, output.answer_mask, args.likelihood_reduction, args.likelihood_aliases
    )
    firsts = selections[0, :, 0].to(output.selector_logps.device)
    scores = [output.selector_logps[0, firsts == item].double().logsumexp(-1).item() for item in range(num_items)]
    return {"scores": scores, "rewards": rewards[0].double().tolist()}


class Problems(TrainerCallback):
    """Notes problems before some steps.

    Args:
        at: The steps, from 0.
        num_questions: Of how many questions.
    """

    def __init__(self, at: list[int], num_questions: int) -> None:
        self.at, self.num_questions = at, num_questions
        self.trainer: DROTrainer | None = None
        self.found: list[dict[str, Any]] = []

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Note the problems of this step, if it is one of them."""
        if state.global_step in self.at:
            assert self.trainer is not None
            rows = itertools.islice(self.trainer.train_dataset, self.num_questions)
            self.found += [{"step": state.global_step, **problem(self.trainer, row)} for row in rows]


def main() -> None:
    """Train, and write the problems as JSON lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--at", type=int, nargs="+", default=[0, 5, 10, 15, 20, 25, 30, 35])
    parser.add_argument("--num_questions", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("problems_of_a_run.jsonl"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = load_rag_dataset(options.dataset)
        trainer = make_trainer(options.model, data, Path(folder), options.seed, TWO_HOPS)
        noted = Problems(options.at, options.num_questions)
        noted.trainer = trainer
        trainer.add_callback(noted)
        trainer.train()
    options.output.write_text("".join(json.dumps(row) + "\n" for row in noted.found))
    print(f"{len(noted.found)} problems: {options.output}")


if __name__ == "__main__":
    main()
