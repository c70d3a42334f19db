"""A frozen generator is asked once for each prompt and its answers."""

import pytest
import torch

from dro_trl.models import known_answers
from dro_trl.models.known_answers import KnownAnswers
from tests.helpers.tiny_models import record_forwards
from tests.helpers.training import make_trainer

PROMPTS, ANSWERS = [[1, 2], [3], [1, 2]], [[[7, 8], [9]], [[7]], [[7, 8], [9]]]


def scoring(asked):
    """Scores a token by itself and its prompt's sum, and notes what it was asked."""

    def score(prompts, answers):
        asked.append(prompts)
        shape = len(prompts), max(map(len, answers)), max(len(ids) for aliases in answers for ids in aliases)
        logps, mask = torch.zeros(shape), torch.zeros(shape, dtype=torch.bool)
        for b, (prompt, aliases) in enumerate(zip(prompts, answers, strict=True)):
            for a, ids in enumerate(aliases):
                logps[b, a, : len(ids)] = torch.tensor(ids) / 2 - sum(prompt)
                mask[b, a, : len(ids)] = True
        return logps, mask

    return score


def test_what_is_known_is_not_asked_again():
    """Two prompts of which one comes twice; then one of them beside a new one, and again with one alias more."""
    asked, known = [], KnownAnswers()
    expected = scoring([])(PROMPTS, ANSWERS)
    for _ in range(2):
        logps, mask = known.logps(scoring(asked), PROMPTS, ANSWERS)
        assert torch.equal(logps, expected[0])
        assert torch.equal(mask, expected[1])
    assert sorted(asked[0]) == [[1, 2], [3]]
    assert len(asked) == 1
    more = [[3], [4], [3]], [[[7]], [[5]], [[7], [8]]]
    logps, _ = known.logps(scoring(asked), *more)
    assert torch.equal(logps, scoring([])(*more)[0])
    assert sorted(asked[1]) == [[3], [4]], "an alias more is another question"


def test_the_oldest_make_room(monkeypatch):
    """There is room for two: a third prompt takes the place of the first, which is then asked for again."""
    monkeypatch.setattr(known_answers, "MOST_BYTES", 2 * (known_answers._BYTES_OF_ENTRY + 4))
    asked, known = [], KnownAnswers()
    for prompt in ([1], [2], [3], [2], [1]):
        known.logps(scoring(asked), [prompt], [[[7]]])
    assert asked == [[[1]], [[2]], [[3]], [[1]]]


def test_a_checkpoint_holds_it_to_the_last_bit(tmp_path):
    known, again = KnownAnswers(), KnownAnswers()
    again.restore(known.state())
    expected, _ = known.logps(scoring([]), PROMPTS, ANSWERS)
    torch.save(known.state(), tmp_path / "state.pt")
    again.restore(torch.load(tmp_path / "state.pt", weights_only=True))
    assert torch.equal(again.logps(None, PROMPTS, ANSWERS)[0], expected)


@pytest.mark.parametrize("train_generator", [False, True])
def test_a_generator_that_is_trained_is_asked_again(tmp_path, train_generator):
    """The same questions and draws twice: without training, the generator reads nothing the second time."""
    trainer = make_trainer(tmp_path, train_generator=train_generator)
    batch = {"rows": [trainer.train_dataset[0], trainer.train_dataset[1]], "draw": 0}
    shapes = record_forwards(trainer.model.generator)
    first, again = (trainer._forward(trainer.model, batch) for _ in range(2))
    assert len(shapes) == 1 + train_generator
    assert torch.equal(first.answer_logps, again.answer_logps)
    assert torch.equal(first.answer_mask, again.answer_mask)
    assert again.answer_logps.abs().sum() > 0
