"""What rewards are given, and what they may return."""

import math

import numpy as np
import pytest
import torch

from dro_trl.reward_calls import call_reward, names_parameter, reward_columns, reward_name
from dro_trl.rewards.answer import exact_match_reward
from dro_trl.rewards.evidence import evidence_recall_reward
from dro_trl.rewards.likelihood import AnswerLogLikelihood
from tests.tiny_models import tiny_questions

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
