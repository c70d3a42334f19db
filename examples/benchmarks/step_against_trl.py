"""Time of a training step of the selector, and of drawing selections, against TRL's own GRPOTrainer and `generate`.

    python examples/benchmarks/step_against_trl.py
    python examples/benchmarks/step_against_trl.py --size 0.5B --dtype bfloat16     # on a GPU, if there is one

A Qwen2 of 25M random weights in float32, or of another size, as selector and generator, one question a step or
`--questions_per_step`, N = 20 passages of 100 tokens, K = 5. GRPOTrainer is unmodified; it writes as many tokens as a
selection has, and its reward is the generator's likelihood of the answer. Since random weights write no valid
selection, that reward reads a random one in its place, so that the generator has its work. Continuous batching is
transformers' own. The systems take turns, `--rounds` times; a figure is the median over rounds of the mean step, the
first step of a round left out.
"""

import argparse
import random
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from rich.console import Console
from rich.table import Table
from small_models import DEVICE, SIZES, PeakMemory, add_model_options, questions, random_model, word_tokenizer
from small_runs import COMMON, StepTimes, make_trainer, now
from small_runs import NUM_SELECTED as K
from transformers import ContinuousBatchingConfig, GenerationConfig, PreTrainedModel
from trl import GRPOConfig, GRPOTrainer

from dro_trl import AnswerLogLikelihood, DROConfig, SelectionReward, trl_dataset
from dro_trl.files.writing import write_json
from dro_trl.lm.prompts import format_selection
from dro_trl.policies.base import load_policy

N = 20
MEMORY = 0.25
"""Of what is free, for continuous batching: it would take nearly all, whatever others need."""
AUTOREGRESSIVE, PLACKETT_LUCE = "dro_trl.AutoregressivePolicy", "dro_trl.PlackettLucePolicy"


@dataclass
class Work:
    """What every system is given."""

    rows: Dataset
    num: int
    """M."""
    steps: int
    size: str
    dtype: torch.dtype
    questions: int = 1
    """In a step."""

    def model(self) -> PreTrainedModel:
        """Return a new model."""
        return random_model("qwen2", self.dtype, **SIZES[self.size])

    def drawing_model(self) -> PreTrainedModel:
        """Return a new model to draw from."""
        return self.model().eval()


class RandomSelections:
    """A reward of TRL's: what `SelectionReward` gives to random selections in place of the completions."""

    __name__ = "answer_log_likelihood"

    def __init__(self, reward: SelectionReward) -> None:
        self.reward, self._chance = reward, random.Random(0)

    def __call__(self, completions: list[str], **kwargs: Any) -> list[float | None]:
        drawn = [format_selection(self._chance.sample(range(len(given)), K)) for given in kwargs["candidates"]]
        return self.reward(completions=drawn, **kwargs)


def step_of_trl(work: Work) -> list[float]:
    """Return the times of GRPOTrainer's steps."""
    tokenizer, times = word_tokenizer(), StepTimes()
    generator = work.drawing_model()
    reward = SelectionReward(
        AnswerLogLikelihood(),
        num_selected=K,
        malformed_reward=-100,
        generator=generator,
        generator_tokenizer=tokenizer,
    )
    with tempfile.TemporaryDirectory() as folder:
        args = GRPOConfig(
            folder,
            num_generations=work.num,
            per_device_train_batch_size=work.num * work.questions,
            max_completion_length=4 * K - 1,
            max_steps=work.steps,
            use_cpu=DEVICE == "cpu",
            generation_kwargs={"min_new_tokens": 4 * K - 1},
            **COMMON,
        )
        trainer = GRPOTrainer(
            model=work.model(),
            reward_funcs=RandomSelections(reward),
            args=args,
            train_dataset=trl_dataset(work.rows, DROConfig(folder, num_selected=K), tokenizer),
            processing_class=tokenizer,
            callbacks=[times],
        )
        trainer.train()
    return times.seconds


def step_of_ours(work: Work, **options: Any) -> list[float]:
    """Return the times of DROTrainer's steps."""
    times = StepTimes()
    with tempfile.TemporaryDirectory() as folder:
        options |= {"num_selections": work.num, "max_steps": work.steps}
        options |= {"per_device_train_batch_size": work.questions}
        trainer = make_trainer(work.rows, folder, SIZES[work.size], work.dtype, **options)
        trainer.add_callback(times)
        trainer.train()
    return times.seconds


@torch.no_grad()
def draws_by_generate(work: Work) -> list[float]:
    """Return the times of `generate(num_return_sequences=M)`, as many tokens as a selection has."""
    tokenizer, model = word_tokenizer(), work.drawing_model()
    policy: Any = load_policy(AUTOREGRESSIVE, tokenizer, K, None)
    seconds = []
    for row in list(work.rows)[: work.steps]:
        ids = torch.tensor(policy.encode([row]).prompt_ids, device=model.device)
        start = now()
        model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=True,
            num_return_sequences=work.num,
            max_new_tokens=4 * K - 1,
            min_new_tokens=4 * K - 1,
        )
        seconds.append(now() - start)
    return seconds


@torch.no_grad()
def draws_by_batching(work: Work) -> list[float]:
    """Return the times of transformers' continuous batching for the same, which shares the prompt's keys as well."""
    tokenizer, model = word_tokenizer(), work.drawing_model()
    policy: Any = load_policy(AUTOREGRESSIVE, tokenizer, K, None)
    config = GenerationConfig(
        do_sample=True, num_return_sequences=work.num, max_new_tokens=4 * K - 1, eos_token_id=-1, pad_token_id=0
    )
    seconds = []
    for row in list(work.rows)[: work.steps]:
        start = now()
        written = model.generate_batch(
            policy.encode([row]).prompt_ids, config, ContinuousBatchingConfig(max_memory_percent=MEMORY), warmup=False
        )
        seconds.append(now() - start)
        assert [len(output.generated_tokens) for output in written.values()] == [4 * K - 1] * work.num
    return seconds


@torch.no_grad()
def draws_of_ours(work: Work, policy: str) -> list[float]:
    """Return the times of a policy's `sample`, which scores the selections as well."""
    chooser, model = load_policy(policy, word_tokenizer(), K, None), work.drawing_model()
    seconds = []
    for number, row in enumerate(list(work.rows)[: work.steps]):
        start = now()
        chooser.sample(
            model, chooser.encode([row]).to(model.device), work.num, [torch.Generator().manual_seed(number)]
        )
        seconds.append(now() - start)
    return seconds


System = Callable[[Work], list[float]]
GROUPS: dict[str, dict[str, System]] = {
    "step": {
        "TRL GRPOTrainer, generator frozen": step_of_trl,
        "autoregressive, generator frozen": lambda work: step_of_ours(
            work, policy=AUTOREGRESSIVE, train_generator=False
        ),
        "autoregressive, both trained": lambda work: step_of_ours(work, policy=AUTOREGRESSIVE),
        "Plackett-Luce, generator frozen": lambda work: step_of_ours(
            work, policy=PLACKETT_LUCE, train_generator=False
        ),
        "Plackett-Luce, both trained": lambda work: step_of_ours(work, policy=PLACKETT_LUCE),
    },
    "draw": {
        "generate(num_return_sequences=M)": draws_by_generate,
        "generate_batch (continuous batching)": draws_by_batching,
        "autoregressive": partial(draws_of_ours, policy=AUTOREGRESSIVE),
        "Plackett-Luce": partial(draws_of_ours, policy=PLACKETT_LUCE),
    },
}
"""The first of each group is the peer."""


def main() -> None:
    """Measure, print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--num_selections", type=int, nargs="+", default=[4, 16], help="M; GRPOTrainer wants 2 or more"
    )
    add_model_options(parser)
    parser.add_argument("--passage_tokens", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3, help="in a round, the first of which is left out")
    parser.add_argument("--questions_per_step", type=int, default=1, help="of the group `step`")
    parser.add_argument("--num_candidates", type=int, default=N, help="N")
    parser.add_argument("--groups", nargs="+", choices=GROUPS, default=list(GROUPS))
    parser.add_argument("--output", type=Path, default=Path("step_against_trl.json"))
    options = parser.parse_args()
    rows = Dataset.from_list(questions(8 * options.questions_per_step, options.num_candidates, options.passage_tokens))
    results = []
    shown = Table("", "M", "system", "seconds", "times faster than the peer (range over rounds)")
    for group in options.groups:
        for num in options.num_selections:
            rounds: dict[str, list[float]] = {name: [] for name in GROUPS[group]}
            peaks = dict.fromkeys(rounds, 0.0)
            dtype = getattr(torch, options.dtype)
            work = Work(rows, num, options.steps, options.size, dtype, options.questions_per_step)
            for _ in range(options.rounds):
                for name, system in GROUPS[group].items():
                    peak = PeakMemory()
                    rounds[name].append(statistics.mean(system(work)[1:]))
                    peaks[name] = max(peaks[name], peak.mib())
            peer = next(iter(rounds.values()))
            for name, seconds in rounds.items():
                ratios = [theirs / ours for theirs, ours in zip(peer, seconds, strict=True)]
                row = {"group": group, "num_selections": num, "system": name, "seconds": seconds, "ratios": ratios}
                row |= {"size": options.size, "dtype": options.dtype, "questions": options.questions_per_step}
                row |= {"peak_mib": peaks[name]}
                results.append(row | {"median": statistics.median(seconds), "ratio": statistics.median(ratios)})
                spread = f"{results[-1]['ratio']:.1f} ({min(ratios):.1f} to {max(ratios):.1f})"
                shown.add_row(group, str(num), name, f"{results[-1]['median']:.2f}", spread)
            write_json(options.output, results)
    Console().print(shown)
    print(f"Results: {options.output}")


if __name__ == "__main__":
    main()
