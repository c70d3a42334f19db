"""Evidence recall, worked by hand."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dro_trl.rewards.evidence import evidence_recall_reward
from dro_trl.types import Passage


def passages(*ids: str) -> list[Passage]:
    return [Passage(id=i, title=f"Title {i}", text=f"Text {i}.", score=1.0) for i in ids]


def test_share_of_gold_passages_that_are_selected():
    """Candidates a, b, c. Gold {c}: selected. Gold {a, c}: c only. Gold {a, z}: z is no candidate, a is selected."""
    rewards = evidence_recall_reward(
        prompts=["p"] * 4,
        completions=["[3] > [2]"] * 4,
        selections=[[2, 1], [2, 1], [0, 1], [1]],
        candidates=[passages("a", "b", "c")] * 4,
        gold_ids=[["c"], ["a", "c"], ["a", "z"], ["c", "c"]],
    )
    assert rewards == [1.0, 0.5, 0.5, 0.0]


def test_a_gold_passage_listed_twice_counts_once():
    assert evidence_recall_reward([[0]], [passages("a", "b")], [["a", "a", "b"]]) == [0.5]


@given(st.permutations(range(5)), st.integers(1, 5), st.sets(st.sampled_from("abcde"), min_size=1))
def test_selecting_everything_gives_one_and_order_does_not_matter(order, size, gold):
    candidates = [passages(*"abcde")]
    selection = list(order[:size])
    (reward,) = evidence_recall_reward([selection], candidates, [sorted(gold)])
    assert evidence_recall_reward([selection[::-1]], candidates, [sorted(gold)]) == [reward]
    assert reward == sum("abcde"[i] in gold for i in selection) / len(gold)
    assert evidence_recall_reward([list(order)], candidates, [sorted(gold)]) == [1.0]


@pytest.mark.parametrize("missing", [None, []])
def test_a_row_without_gold_is_named_with_the_fix(missing):
    columns = {"selections": [[0], [0]], "candidates": [passages("a")] * 2, "gold_ids": [["a"], missing]}
    with pytest.raises(
        ValueError, match=rf"row 1 of the batch has gold_ids={missing!r}.*Filter the dataset".replace("[]", r"\[\]")
    ):
        evidence_recall_reward(**columns)
    with pytest.raises(ValueError, match=r"row 1 of the batch \(question 'Where\?'\) has gold_ids"):
        evidence_recall_reward(**columns, question=["Who?", "Where?"])


def test_columns_of_different_length_are_refused():
    with pytest.raises(ValueError, match="shorter"):
        evidence_recall_reward([[0], [0]], [passages("a")], [["a"], ["a"]])


def test_importing_the_rewards_without_a_model_costs_no_torch():
    code = "import sys, dro_trl.rewards.answer, dro_trl.rewards.evidence; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
