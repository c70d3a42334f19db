"""A reward that calls a model: an NLI classifier says how far the selected passages entail the answer.

    python examples/judge_reward.py --model "$(dro-trl gemma)" --judge cross-encoder/nli-deberta-v3-small \
        --dataset quickstart/data/train.top8.jsonl

From a recipe: `reward_funcs: [judge_reward.Entailment]`, with the judge's folder or name in JUDGE.
"""

import argparse
import os
from typing import Any

import torch
from accelerate import PartialState
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from dro_trl import DROConfig, DROTrainer, load_rag_dataset, loading_whole


class Entailment:
    """Reward a selection with the probability that its passages entail "question answer"."""

    def __init__(self, judge: str = os.environ.get("JUDGE", ""), batch_size: int = 16) -> None:
        self.judge, self.batch_size, self.model = judge, batch_size, None

    def load(self) -> None:
        """Load the judge on this process's device; the trainer neither wraps nor trains it."""
        with loading_whole():
            self.model = AutoModelForSequenceClassification.from_pretrained(self.judge).to(PartialState().device)
        self.tokenizer = AutoTokenizer.from_pretrained(self.judge)
        self.label = {name.lower(): index for index, name in self.model.config.id2label.items()}["entailment"]

    @torch.inference_mode()
    def __call__(self, selections: Any, candidates: Any, question: Any, answers: Any, **kwargs: Any) -> list[float]:
        """Return one probability per selection; takes the columns that any reward is given."""
        if self.model is None:
            self.load()
        read = [" ".join(c[i]["text"] for i in z) for z, c in zip(selections, candidates, strict=True)]
        pairs = list(zip(read, [f"{q} {a[0]}" for q, a in zip(question, answers, strict=True)], strict=True))
        rewards: list[float] = []
        for at in range(0, len(pairs), self.batch_size):
            options = {"padding": True, "truncation": "only_first", "return_tensors": "pt"}
            inputs = self.tokenizer(pairs[at : at + self.batch_size], **options).to(self.model.device)
            rewards += self.model(**inputs).logits.softmax(-1)[:, self.label].tolist()
        return rewards


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "judge", "dataset"):
        parser.add_argument(f"--{name}", required=True)
    options = parser.parse_args()
    args = DROConfig("judge_reward", num_selected=2, per_device_train_batch_size=4, max_steps=100, report_to="none")
    dataset = load_rag_dataset(options.dataset)
    DROTrainer(options.model, None, args, dataset, reward_funcs=Entailment(options.judge)).train()
