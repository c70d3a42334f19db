"""What the models read of a question, measured on data."""

import pytest

from dro_trl import DROConfig, PlackettLucePolicy
from dro_trl.recipes.estimates.lengths import measured_lengths
from dro_trl.recipes.estimates.quantities import Compared
from tests.helpers.tiny_models import tiny_questions, tiny_tokenizer


def lengths_of(tmp_path, rows, score):
    args = DROConfig(str(tmp_path), use_cpu=True, num_selected=2, policy_kwargs={"item_score": score})
    return measured_lengths(rows, tiny_tokenizer(), args)


@pytest.mark.parametrize("score", ["pointwise", "passage_end", "query_likelihood"])
def test_a_question_is_one_row_of_its_tokens(tmp_path, score):
    rows = tiny_questions(4, 6)
    for found, row in zip(lengths_of(tmp_path, rows, score), rows, strict=True):
        batch = PlackettLucePolicy(tiny_tokenizer(), 2, score).encode([row]).batch
        assert (found.selector_rows, found.selector) == (1, int((batch.segments >= 0).sum()))
        assert found.selector_compared.pairs < found.selector**2


def test_passages_of_one_length_and_of_several(tmp_path):
    """Four equal passages of L tokens with the question compare 4 x L^2 / 2 pairs; a longer one changes the rest."""
    (row,) = tiny_questions(4)
    row["candidates"] = [{**row["candidates"][0], "id": str(i)} for i in range(4)]
    (equal,) = lengths_of(tmp_path, [row], "query_likelihood")
    each = equal.selector / 4
    assert equal.selector_compared == Compared(4 * each**2 / 2, equal.selector, 0)
    row["candidates"][3]["text"] += " more words"
    (mixed,) = lengths_of(tmp_path, [row], "query_likelihood")
    longest = mixed.selector - 3 * each
    assert longest > each
    assert mixed.selector_compared == Compared(4 * longest**2 / 2, 4 * longest, 0)
