"""Rewards that judge the answer the generator wrote from a selection."""

from typing import Any

from dro_trl.metrics import exact_match, token_f1


def exact_match_reward(generated_answers: list[str], answers: list[list[str]], **kwargs: Any) -> list[float]:
    """Reward 1 for an answer that equals an alias after KILT's normalisation, else 0.

    Args:
        generated_answers: The generator's answer for each selection.
        answers: The aliases of each selection's question.
        **kwargs: Other columns, unused.

    Returns:
        One number, 0.0 or 1.0, per selection.

    Raises:
        ValueError: The two lists differ in length, or a question has no alias.
    """
    return [exact_match(answer, aliases) for answer, aliases in zip(generated_answers, answers, strict=True)]


def token_f1_reward(generated_answers: list[str], answers: list[list[str]], **kwargs: Any) -> list[float]:
    """Reward an answer by its word F1 with the closest alias, after KILT's normalisation.

    Args:
        generated_answers: The generator's answer for each selection.
        answers: The aliases of each selection's question.
        **kwargs: Other columns, unused.

    Returns:
        One number in [0, 1] per selection.

    Raises:
        ValueError: The two lists differ in length, or a question has no alias.
    """
    return [token_f1(answer, aliases) for answer, aliases in zip(generated_answers, answers, strict=True)]
