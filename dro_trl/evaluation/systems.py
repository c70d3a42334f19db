"""The systems that a pair is compared with: each chooses the passages that a generator reads."""

import copy
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from dro_trl.models.answers import AnswerScorer, score_answers
from dro_trl.names import nearest
from dro_trl.pipeline import RAGPipeline
from dro_trl.policies.autoregressive import AutoregressivePolicy
from dro_trl.policies.randomness import _ORACLE, _RANDOM, _random_orders, random_generator
from dro_trl.selector import Selector
from dro_trl.types import Question, Selection


@dataclass(frozen=True)
class Task:
    """What a system chooses passages for."""

    pipeline: RAGPipeline
    """The pair that chooses."""
    rows: Sequence[Question]
    """As `RAGPipeline.prepare` returns them."""
    ranks: Sequence[Sequence[int]]
    """For each row, the retriever's rank of each candidate, from 0; other than 0, 1, … where they were shuffled."""
    batch_size: int = 8
    """Questions, or prompts of the generator, in a batch; no choice depends on it."""
    num_selections: int = 16
    """M, how many selections the oracle draws."""
    seed: int = 0
    """Of what is drawn, for each question by itself."""

    @property
    def num_selected(self) -> int:
        """K."""
        return self.pipeline.policy.num_selected


def retriever_order(task: Task) -> list[Selection]:
    """Choose the retriever's first K."""
    return [[list(ranks).index(rank) for rank in range(task.num_selected)] for ranks in task.ranks]


def selector_order(task: Task) -> list[Selection]:
    """Choose what the selector prefers."""
    return _preferred(task.pipeline, task)


def _preferred(pipeline: RAGPipeline | Selector, task: Task) -> list[Selection]:
    return [selection for selection, _ in pipeline.select(task.rows, task.batch_size, progress=False)]


def no_retrieval(task: Task) -> list[Selection]:
    """Choose nothing."""
    return [[] for _ in task.rows]


def all_candidates(task: Task) -> list[Selection]:
    """Choose every candidate, in the order shown."""
    return [list(range(len(row["candidates"]))) for row in task.rows]


def random_choice(task: Task) -> list[Selection]:
    """Choose K candidates at random."""
    return [order[: task.num_selected] for order in _random_orders(task.rows, task.seed, _RANDOM)]


def zero_shot_ranking(task: Task) -> list[Selection]:
    """Choose by the selector's listwise prompt: K identifiers, greedily, constrained to passages still available."""
    pipeline = task.pipeline
    policy = AutoregressivePolicy(pipeline.policy.tokenizer, task.num_selected, pipeline.texts)
    ranking = Selector(pipeline.selector, policy, pipeline.tokenizer)
    ranking.windows = pipeline.windows
    return _preferred(ranking, task)


def likelihood_order(task: Task) -> list[Selection]:
    """Choose the K passages given which, one at a time, the generator finds the answer likeliest."""
    alone = [[[i] for i in range(len(row["candidates"]))] for row in task.rows]
    orders = [sorted(range(len(scores)), key=scores.__getitem__, reverse=True) for scores in answer_logps(task, alone)]
    return [order[: task.num_selected] for order in orders]


def oracle(task: Task) -> list[Selection]:
    """Choose the one of M selections drawn from the selector given which the generator finds the answer likeliest."""
    drawn = draw_selections(task)
    return [
        selections[max(range(len(scores)), key=scores.__getitem__)]
        for selections, scores in zip(drawn, answer_logps(task, drawn), strict=True)
    ]


@torch.no_grad()
def draw_selections(task: Task) -> list[list[Selection]]:
    """Draw M selections a question from the selector; of equal ones the first is returned.

    Raises:
        ValueError: If a question has more candidates than the windows by which the pipeline selects.
    """
    policy = copy.copy(task.pipeline.policy)
    windows = task.pipeline.windows
    most = max((len(row["candidates"]) for row in task.rows), default=0)
    if windows is not None and most > windows.size and not policy.scores_alone:
        raise ValueError(
            f"'oracle' draws from all candidates at once, of which there are {most}, and not by windows of "
            f"window_size={windows.size}; leave 'oracle' out, or window_size"
        )
    policy.proposal = "policy"  # "every_passage" draws nothing, and has selections of one alone.
    device = next(task.pipeline.selector.parameters()).device
    drawn: list[list[Selection]] = []
    for start in range(0, len(task.rows), task.batch_size):
        rows = task.rows[start : start + task.batch_size]
        generators = [random_generator(task.seed, _ORACLE, row["question"]) for row in rows]
        inputs = policy.encode(rows).to(device)
        sample = policy.sample(task.pipeline.selector, inputs, task.num_selections, generators)
        drawn += [list(map(list, dict.fromkeys(map(tuple, row)))) for row in sample.selections.tolist()]
    return drawn


def answer_logps(task: Task, selections: Sequence[Sequence[Selection]]) -> list[list[float]]:
    """Score selections by the generator's log-likelihood of the first alias of the answer.

    Args:
        task: Its `batch_size` is how many prompts are scored at once.
        selections: For each row, any number of selections, all of equally many passages.

    Returns:
        For each row, log p_g(y|x, d_z) of each of its selections in nats, summed over the answer's tokens, to four
        decimals.
    """
    pipeline = task.pipeline
    scorer = AnswerScorer(pipeline.tokenizer, texts=pipeline.texts)
    scores = score_answers(pipeline.generator, scorer, task.rows, selections, task.batch_size)
    # Of equal ones the first comes first, whatever rounding of sums a batch size makes.
    return [[round(score, 4) for score in row] for row in scores]


Pair = Literal["start", "trained"]


@dataclass(frozen=True)
class System:
    """Who chooses passages, how, and who answers from them."""

    chooser: Pair
    choose: Callable[[Task], list[Selection]]
    generator: Pair = "trained"
    reads_answer: bool = False
    """Whether the choice looks at the answer: a reference to compare with, no system to use."""


SYSTEMS = {
    "start, retriever order": System("start", retriever_order, "start"),
    "start": System("start", selector_order, "start"),
    "no retrieval": System("trained", no_retrieval),
    "all candidates": System("trained", all_candidates),
    "random": System("trained", random_choice),
    "trained, retriever order": System("trained", retriever_order),
    "zero-shot ranking": System("start", zero_shot_ranking),
    "trained": System("trained", selector_order),
    "likelihood order": System("trained", likelihood_order, reads_answer=True),
    "oracle": System("trained", oracle, reads_answer=True),
}
"""Every system by its name, in the order of tables. The start chooses before the trained pair is loaded."""


def find_systems(names: Collection[str]) -> dict[str, System]:
    """Return the systems of these names, in the order of `SYSTEMS`.

    Raises:
        ValueError: If there is no system of a name.
    """
    for name in names:
        if name not in SYSTEMS:
            near = nearest(name, SYSTEMS)
            hint = f"did you mean {near!r}?" if near else f"there are {', '.join(map(repr, SYSTEMS))}"
            raise ValueError(f"unknown system {name!r}; {hint}")
    return {name: system for name, system in SYSTEMS.items() if name in names}
