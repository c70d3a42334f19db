"""A selection policy of one's own: Plackett-Luce with a temperature for each rank, bold first and careful after.

python examples/custom_policy.py --model "$(dro-trl gemma)" --dataset quickstart/data/train.top8.jsonl
"""

import argparse
from typing import Any

import torch

from dro_trl import DROConfig, DROTrainer, PlackettLucePolicy, SelectionLogps, SelectionSample, load_rag_dataset


class RankTemperaturePolicy(PlackettLucePolicy):
    """Chooses passage k in proportion to exp(score / rank_temperatures[k]) among those not yet taken."""

    def __init__(self, tokenizer: Any, num_selected: int, rank_temperatures: list[float], **kwargs: Any) -> None:
        super().__init__(tokenizer, num_selected, **kwargs)
        self.rank_temperatures = rank_temperatures

    def choice(self, scores: torch.Tensor, taken: torch.Tensor, temperature: float) -> torch.Tensor:
        """Return the log-probabilities (B, M, N) of the choice that follows those taken, (B, M, k)."""
        options = scores[:, None].repeat(1, taken.shape[1], 1).scatter(-1, taken, float("-inf"))
        return (options / (self.rank_temperatures[taken.shape[-1]] * temperature)).log_softmax(-1)

    def score(self, scores: torch.Tensor, selections: torch.Tensor, temperature: float = 1.0) -> SelectionLogps:
        logps = entropy = torch.zeros_like(scores[:, :1])
        for k in range(self.num_selected):
            choice = self.choice(scores, selections[..., :k], temperature)
            logps = logps + choice.gather(-1, selections[..., k : k + 1])[..., 0]
            entropy = entropy - (choice.exp() * choice.clamp(min=-1e9)).sum(-1)
        return SelectionLogps(logps, entropy.mean(-1))

    def logps(self, model: Any, inputs: Any, selections: torch.Tensor) -> SelectionLogps:
        return self.score(self.item_scores(model, inputs), selections)

    def sample(self, model: Any, inputs: Any, num_selections: int, generators: Any, temperature: float = 1.0) -> Any:
        scores, sizes = self.item_scores(model, inputs), inputs.item_mask.sum(-1).tolist()
        drawn = torch.zeros(len(scores), num_selections, 0, dtype=torch.int64, device=scores.device)
        for _ in range(self.num_selected):
            probs = self.choice(scores.detach(), drawn, temperature).exp().cpu()
            rows = zip(probs, sizes, generators, strict=True)  # Of each its own candidates: draws ignore the batch.
            picked = [torch.multinomial(row[:, :n], 1, generator=generator) for row, n, generator in rows]
            drawn = torch.cat([drawn, torch.stack(picked).to(drawn)], dim=-1)
        exact, behavior = self.score(scores, drawn), self.score(scores.detach(), drawn, temperature)
        return SelectionSample(exact.logps, exact.entropy, drawn, behavior.logps)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("--model", "--dataset"):
        parser.add_argument(name, required=True)
    options = parser.parse_args()
    policy = {"policy": "custom_policy.RankTemperaturePolicy", "policy_kwargs": {"rank_temperatures": [2.0, 0.5]}}
    args = DROConfig("custom_policy", num_selected=2, max_steps=100, report_to="none", **policy)
    trainer = DROTrainer(options.model, None, args, load_rag_dataset(options.dataset))
    trainer.train()
    trainer.save_model()
