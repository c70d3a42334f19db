"""Answer rewards, called as the trainer calls them: every column as a keyword."""

import pytest

from dro_trl.rewards.answer import exact_match_reward, token_f1_reward

COLUMNS = {
    "prompts": ["p"] * 3,
    "completions": ["[1] > [2]", "[2] > [1]", "[1] > [3]"],
    "selections": [[0, 1], [1, 0], [0, 2]],
    "question": ["Who?"] * 3,
    "generated_answers": ["The Ada Lovelace", "Ada", "Grace Hopper"],
    "answers": [["Ada Lovelace", "Lovelace"]] * 3,
}


def test_exact_match():
    assert exact_match_reward(**COLUMNS) == [1.0, 0.0, 0.0]


def test_token_f1():
    """ "ada" vs "ada lovelace": precision 1, recall 1/2, F1 2/3."""
    assert token_f1_reward(**COLUMNS) == pytest.approx([1.0, 2 / 3, 0.0])


@pytest.mark.parametrize("reward", [exact_match_reward, token_f1_reward])
def test_columns_of_different_length_are_refused(reward):
    with pytest.raises(ValueError, match="shorter"):
        reward(generated_answers=["a", "b"], answers=[["a"]])
