"""Policies by their dotted path, and the keyword arguments that they take."""

import pytest

from dro_trl.policies.base import load_policy
from tests.helpers.tiny_models import tiny_tokenizer


@pytest.mark.parametrize(
    ("path", "kwargs", "message"),
    [
        (
            "dro_trl.PlackettLucePolicy",
            {"retriever_prior": "x"},
            "policy_kwargs: retriever_prior='x' must be a number",
        ),
        ("dro_trl.PlackettLucePolicy", {"retriever_prior": None}, "policy_kwargs: retriever_prior=None must be"),
        ("dro_trl.PlackettLucePolicy", {"learn_weights": 1}, "policy_kwargs: learn_weights=1 must be true or false"),
        (
            "dro_trl.PlackettLucePolicy",
            {"item_score": "x"},
            "policy_kwargs: item_score='x' must be one of 'pointwise', ",
        ),
        (
            "dro_trl.PlackettLucePolicy",
            {"a": 1},
            "policy_kwargs={'a': 1} is not what dro_trl.PlackettLucePolicy takes",
        ),
        ("dro_trl.PlackettLucePolicy", {"num_selected": 3}, "policy_kwargs: num_selected is an option of its own"),
        ("json.loads", {}, "policy='json.loads' is no policy: it has no encode; for example"),
        ("dro_trl.DROConfig", {}, "policy='dro_trl.DROConfig' is no policy: it has no encode; for example"),
        ("nosuch.Policy", {}, "policy='nosuch.Policy' is not the dotted path of a class"),
    ],
)
def test_what_is_no_policy(path, kwargs, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        load_policy(path, tiny_tokenizer(), 2, kwargs)


def test_arguments_as_a_command_line_has_them():
    policy = load_policy(
        "dro_trl.PlackettLucePolicy", tiny_tokenizer(), 2, {"retriever_prior": "0.5", "answer_confidence": None}
    )
    assert policy.score_weights.weight.tolist() == [1.0, 0.5]
