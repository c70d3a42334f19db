"""What rewards are given, and what they may return."""

import asyncio
import functools
import math

import numpy as np
import pytest
import torch
from trl.rewards import get_soft_overlong_punishment

from dro_trl.rewards.answer import exact_match_reward
from dro_trl.rewards.calls import RewardSum, call_reward, call_rewards, names_parameter, reward_columns, reward_name
from dro_trl.rewards.evidence import evidence_recall_reward
from dro_trl.rewards.likelihood import AnswerLogLikelihood
from tests.helpers.tiny_models import tiny_questions

SELECTIONS = [[[2, 0], [0, 1]], [[1, 2], [1, 0]]]


@pytest.fixture
def columns():
    return reward_columns(tiny_questions(3, 3), SELECTIONS)


def returning(value):
    def my_reward(**kwargs):
        return value

    return my_reward


def test_columns_have_one_entry_per_selection():
    rows = tiny_questions(3, 3)
    del rows[1]["gold_ids"]
    rows[1]["level"] = "hard"
    columns = reward_columns(rows, SELECTIONS)
    first, second = (row["question"] for row in rows)
    assert columns["prompts"] == columns["question"] == [first, first, second, second]
    assert columns["completions"] == ["[3] > [1]", "[1] > [2]", "[2] > [3]", "[2] > [1]"]
    assert columns["selections"] == [[2, 0], [0, 1], [1, 2], [1, 0]]
    assert columns["gold_ids"] == [["0-0"], ["0-0"], None, None]
    assert columns["level"] == [None, None, "hard", "hard"]
    assert [entry is rows[i // 2]["candidates"] for i, entry in enumerate(columns["candidates"])] == [True] * 4
    with pytest.raises(ValueError, match="zip"):
        reward_columns(rows, SELECTIONS[:1])


def test_a_real_reward(columns):
    """Gold is 0-0 for the first question and 1-1 for the second: found by (2, 0) and (0, 1), then by both."""
    assert call_reward(evidence_recall_reward, columns).tolist() == [1.0, 1.0, 1.0, 1.0]
    missing = reward_columns(tiny_questions(3), [[[2, 1], [1, 0]]])
    assert call_reward(evidence_recall_reward, missing).tolist() == [0.0, 1.0]


@pytest.mark.parametrize(
    "values",
    [
        [1, True, -2.5, 0.0],
        (1.0, 1.0, -2.5, 0.0),
        torch.tensor([1.0, 1.0, -2.5, 0.0], requires_grad=True),
        torch.tensor([1.0, 1.0, -2.5, 0.0], dtype=torch.float64),
        np.array([1.0, 1.0, -2.5, 0.0]),
    ],
    ids=["list", "tuple", "tensor", "float64", "numpy"],
)
def test_lists_and_tensors(columns, values):
    found = call_reward(returning(values), columns)
    assert found.tolist() == [1.0, 1.0, -2.5, 0.0]
    assert found.dtype == torch.float32
    assert not found.requires_grad


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ([0.0] * 3, "3 values"),
        (torch.zeros(5), "5 values"),
        ([], "0 values"),
        (None, "None"),
        (torch.zeros(4, 1), r"shape \(4, 1\)"),
    ],
    ids=["too few", "too many", "none at all", "None", "a matrix"],
)
def test_wrong_count(columns, values, found):
    with pytest.raises(ValueError, match=f"my_reward returned {found} for 4 selections; return one number for each"):
        call_reward(returning(values), columns)


@pytest.mark.parametrize(
    ("bad", "name"),
    [(None, "None"), (math.nan, "nan"), (math.inf, "inf"), (-math.inf, "-inf"), (torch.tensor(math.nan), "nan")],
)
def test_values_that_are_no_numbers(columns, bad, name):
    """The error names the function, the selection's number, its text and its question."""
    question = tiny_questions(1, 1)[1]["question"].replace("?", r"\?")
    with pytest.raises(
        ValueError, match=rf"my_reward returned {name} for selection 2 \(\[2\] > \[3\] of .*{question}"
    ):
        call_reward(returning([0.0, 1.0, bad, 1.0]), columns)


def test_tensors_that_are_not_finite(columns):
    values = torch.tensor([0.0, math.inf, 1.0, math.nan])
    with pytest.raises(ValueError, match=r"my_reward returned inf for selection 1 .*, 2 such values in all"):
        call_reward(returning(values), columns)


def test_answers_are_generated_for_rewards_that_name_them():
    """`**kwargs` alone does not ask for generated answers: generating them is dear."""
    assert names_parameter(exact_match_reward, "generated_answers")
    assert not names_parameter(evidence_recall_reward, "generated_answers")
    assert not names_parameter(returning(0.0), "generated_answers")
    assert names_parameter(AnswerLogLikelihood(), "answer_logps")
    assert not names_parameter(AnswerLogLikelihood(), "generated_answers")


def test_names():
    class Custom:
        def __call__(self, **kwargs):
            return []

    assert reward_name(exact_match_reward) == "exact_match_reward"
    assert reward_name(AnswerLogLikelihood()) == "answer_log_likelihood"
    assert reward_name(Custom()) == "Custom"
    assert reward_name(functools.partial(functools.partial(exact_match_reward), x=1)) == "exact_match_reward"


# TRL's contract: asynchronous rewards, None, `log_metric` and `trainer_state`


class Judge:
    """As a client does: its connection belongs to the event loop of the first call."""

    loop = None

    async def __call__(self, completions, **kwargs):
        loop = self.loop = self.loop or asyncio.get_running_loop()
        assert asyncio.get_running_loop() is loop
        await asyncio.sleep(0.01)
        return [float(text.startswith("[2]")) for text in completions]


def test_asynchronous_rewards_run_at_the_same_time(columns):
    """Each waits for the other: one after the other, both would fail. So it is from within a running loop too."""
    events = []

    async def meet(first, second):
        first.set()
        await asyncio.wait_for(second.wait(), timeout=20)
        return [1.0, 2.0, 3.0, 4.0]

    async def one(**kwargs):
        events[:] = [asyncio.Event(), asyncio.Event()]
        return await meet(*events)

    async def other(**kwargs):
        return await meet(*events[::-1])

    def synchronous(**kwargs):
        return [0.5] * 4

    async def in_a_notebook():
        return call_rewards([one, synchronous, other], columns)

    for values in (call_rewards([one, synchronous, other], columns), asyncio.run(in_a_notebook())):
        assert [value.tolist() for value in values] == [[1, 2, 3, 4], [0.5] * 4, [1, 2, 3, 4]]


def test_an_asynchronous_callable_keeps_its_loop(columns):
    judge = Judge()
    for _ in range(2):
        assert call_reward(judge, columns).tolist() == [0.0, 0.0, 1.0, 1.0]
    assert call_reward(functools.partial(judge), columns).tolist() == [0.0, 0.0, 1.0, 1.0]


def test_an_error_of_an_asynchronous_reward_is_raised(columns):
    async def fails(**kwargs):
        raise ConnectionError("no route to the judge")

    with pytest.raises(ConnectionError, match="no route to the judge"):
        call_reward(fails, columns)


def test_none_leaves_a_reward_out_of_a_questions_sum(columns):
    """First question: only `every` applies, sum 2 * 1; second: 2 * 1 + 10 * 3 and 2 * 1 + 10 * 5."""
    every, some = returning([1.0] * 4), returning([None, None, 3.0, 5.0])
    some.__name__ = "some"
    total, logged = RewardSum([every, some], [2.0, 10.0])(columns)
    assert total.tolist() == [2.0, 2.0, 32.0, 52.0]
    assert logged["rewards/my_reward"].tolist() == [1.0] * 4
    assert logged["rewards/some"].tolist() == [3.0, 5.0]


def test_none_for_a_part_of_a_questions_selections_is_refused(columns):
    with pytest.raises(
        ValueError, match=r"my_reward returned None for selection 1 \(\[1\] > \[2\] of .*for another of its selections"
    ):
        RewardSum([returning([0.0] * 4), returning([1.0, None, None, None])])(columns)


def test_a_question_without_any_reward_is_refused(columns):
    with pytest.raises(ValueError, match=r"my_reward and my_reward returned None for selection 2 .*no reward applies"):
        RewardSum([returning([1.0, 1.0, None, None]), returning([None] * 4)])(columns)


def test_metrics_that_rewards_log(columns):
    def reward(completions, log_metric, **kwargs):
        log_metric("judge/seconds", 2)
        log_metric("judge/seconds", 4)
        return [0.0] * len(completions)

    _, logged = RewardSum(reward)(columns)
    assert logged["judge/seconds"].tolist() == [2.0, 4.0]


def test_what_a_reward_asks_for_and_there_is_not(columns):
    """TRL's length penalty counts tokens, of which a selection has none."""
    with pytest.raises(ValueError, match="soft_overlong_punishment_reward: missing .*'completion_ids'; it is"):
        call_reward(get_soft_overlong_punishment(10, 5), columns)
    with pytest.raises(ValueError, match="<lambda>: got an unexpected keyword argument .* ends in"):
        call_reward(lambda completions: [0.0] * 4, columns)


@pytest.mark.parametrize("func", ["org/reward-model", torch.nn.Linear(1, 1), 3])
def test_what_is_no_function(func):
    for funcs in (func, [func]):
        with pytest.raises(ValueError, match="reward_funcs: (org/reward-model|Linear|int) is no function"):
            RewardSum(funcs)
