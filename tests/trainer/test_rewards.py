"""Rewards in training: their sum, what they read, and the faulty ones."""

import pytest
import torch
from datasets import Dataset

from dro_trl import AnswerLogLikelihood
from dro_trl.lm import prompts
from dro_trl.lm.generation import generate_answers
from tests.helpers.tiny_models import tiny_questions, tiny_tokenizer
from tests.helpers.training import (
    logged,
    make_trainer,
    questions,
)


def test_more_aliases_are_never_less_likely(tmp_path):
    rewards = {}
    for aliases in ("first", "best", "marginal"):
        trainer = make_trainer(tmp_path, likelihood_aliases=aliases)
        batch = {"rows": [trainer.train_dataset[i] for i in range(4)], "draw": 1}
        rewards[aliases] = trainer.estimate(trainer.model, batch)["rewards"]
    assert (rewards["best"] >= rewards["first"] - 1e-4).all()
    assert (rewards["marginal"] >= rewards["best"] - 1e-4).all()
    # The reward says for itself which aliases it reads.
    trainer = make_trainer(tmp_path, reward_funcs=AnswerLogLikelihood(aliases="marginal"))
    torch.testing.assert_close(trainer.estimate(trainer.model, batch)["rewards"], rewards["marginal"])


def test_rewards_add_up_with_their_weights_and_read_the_datasets_columns(tmp_path):
    seen = {}

    def by_note(note, selections, prompts, completions, **kwargs):
        seen.update(note=note, selections=selections, prompts=prompts, completions=completions, columns=set(kwargs))
        return [float(value) for value in note]

    def first_place(selections, **kwargs):
        return torch.tensor([float(selection[0]) for selection in selections])

    rows = questions().add_column("note", [10, 20, 30, 40, 50, 60])
    trainer = make_trainer(
        tmp_path,
        train_dataset=rows,
        reward_funcs=[by_note, first_place],
        reward_weights=[1, 0.5],
        train_generator=False,
    )
    batch = {"rows": [trainer.train_dataset[i] for i in (3, 1)], "draw": 0}
    trainer.model.train()
    estimated = trainer.estimate(trainer.model, batch)
    drawn = estimated["selections"].tolist()
    assert estimated["rewards"].tolist() == [
        [40 + 0.5 * z[0] for z in drawn[0]],
        [20 + 0.5 * z[0] for z in drawn[1]],
    ]
    assert seen["note"] == [40] * 4 + [20] * 4
    assert seen["selections"] == drawn[0] + drawn[1]
    assert seen["prompts"] == [rows[3]["question"]] * 4 + [rows[1]["question"]] * 4
    assert seen["completions"] == [prompts.format_selection(z) for z in drawn[0] + drawn[1]]
    assert {"question", "answers", "candidates", "gold_ids"} <= seen["columns"]
    assert "answer_logps" not in seen["columns"]
    trainer.train()
    assert logged(trainer, "rewards/by_note")[0] >= 10
    assert logged(trainer, "rewards/first_place")[0] >= 0


def test_a_reward_may_read_the_generators_answers(tmp_path):
    given = {}

    def longer(generated_answers, **kwargs):
        given.update(kwargs, generated=generated_answers)
        return [float(len(answer)) for answer in generated_answers]

    rows = tiny_questions(4, 4)
    rows[1]["question"] = rows[0]["question"]  # The same question with other candidates has other answers.
    trainer = make_trainer(tmp_path, train_dataset=Dataset.from_list(rows), reward_funcs=longer)
    trainer.model.train()
    batch = {"rows": [trainer.train_dataset[0], trainer.train_dataset[1]], "draw": 0}
    trainer.estimate(trainer.model, batch)
    assert trainer.model.generator.training
    read = [[c[i] for i in z] for c, z in zip(given["candidates"], given["selections"], strict=True)]
    expected = generate_answers(trainer.model.generator, tiny_tokenizer(), given["question"], read)
    assert given["generated"] == expected
    assert len(set(expected)) > 1
    trainer.train()
    assert len(logged(trainer, "rewards/longer")) == 2


def test_a_reward_written_for_trl(tmp_path):
    """Asynchronous, for a part of the questions, by the step that training has reached, with a metric of its own."""
    rows = tiny_questions(4, 4)
    rows[0]["solution"], rows[1]["solution"] = "[1]", ""

    async def starts_with(prompts, completions, solution, trainer_state, log_metric, log_extra=None, **kwargs):
        assert len(prompts) == len(completions) == 8
        assert log_extra is None
        log_metric("seen_at", trainer_state.global_step)
        return [
            float(text.startswith(start)) + trainer_state.global_step if start else None
            for text, start in zip(completions, solution, strict=True)
        ]

    def constant(completions, **kwargs):
        return [0.25] * len(completions)

    trainer = make_trainer(
        tmp_path, train_dataset=Dataset.from_list(rows), reward_funcs=[starts_with, constant], train_generator=False
    )
    trainer.train()
    assert logged(trainer, "seen_at") == [0, 1]
    rewards = [logged(trainer, f"rewards/{name}") for name in ("starts_with", "constant")]
    assert [low <= value <= low + 1 for low, value in enumerate(rewards[0])] == [True, True]
    assert rewards[1] == [0.25, 0.25]
    assert logged(trainer, "reward") == pytest.approx([value / 2 + 0.25 for value in rewards[0]])


def too_few(selections, **kwargs):
    return [0.0] * (len(selections) - 1)


def not_a_number(selections, **kwargs):
    return [0.0, float("nan"), *[1.0] * (len(selections) - 2)]


def nothing(selections, **kwargs):
    return [None] * len(selections)


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (too_few, "reward function too_few returned 7 values for 8 selections"),
        (
            not_a_number,
            r"reward function not_a_number returned nan for selection 1 \(\[\d\] > \[\d\] of question 'Who",
        ),
        (nothing, r"reward function nothing returned None for selection 0"),
    ],
)
def test_a_wrong_reward_ends_the_run(tmp_path, reward, message):
    trainer = make_trainer(tmp_path, reward_funcs=[reward])
    with pytest.raises(ValueError, match=message):
        trainer.train()
    assert trainer.state.global_step == 0


def test_weights_must_match_the_rewards(tmp_path):
    with pytest.raises(ValueError, match=r"reward_weights=\[1.0, 2.0\] has 2 entries for 1 .*too_few.*one for each"):
        make_trainer(tmp_path, reward_funcs=too_few, reward_weights=[1.0, 2.0])
    with pytest.raises(ValueError, match="reward_funcs=.. holds no reward"):
        make_trainer(tmp_path, reward_funcs=[])
