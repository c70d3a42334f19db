"""Which passages each system chooses, against choices made one question and one passage at a time."""

import types

import pytest
import torch

from dro_trl import AutoregressivePolicy, PlackettLucePolicy, RAGPipeline
from dro_trl.evaluation.evaluator import predict
from dro_trl.evaluation.systems import (
    SYSTEMS,
    Task,
    draw_selections,
    likelihood_order,
    oracle,
    random_choice,
    retriever_order,
    selector_order,
    zero_shot_ranking,
)
from dro_trl.lm import encoding, prompts
from dro_trl.lm.generation import generate_answers
from dro_trl.policies.randomness import random_generator, shuffled
from tests.helpers.tiny_models import tiny_model, tiny_questions, tiny_tokenizer

ROWS = tiny_questions(4, 7, 5, 6)


def pipeline_of(policy):
    models = (tiny_model("llama", tiny_tokenizer(), seed=seed) for seed in (1, 2))
    return RAGPipeline(*models, policy, tiny_tokenizer())


@pytest.fixture(scope="module")
def pipeline():
    return pipeline_of(PlackettLucePolicy(tiny_tokenizer(), 2))


def task_of(pipeline, rows=ROWS, shuffle=None, **kwargs):
    return Task(pipeline, *shuffled(rows, shuffle), **{"num_selections": 6, **kwargs})


def ids_of(task, selections):
    return [[row["candidates"][i]["id"] for i in z] for row, z in zip(task.rows, selections, strict=True)]


@torch.no_grad()
def answer_logp(pipeline, row, selection):
    """Log-likelihood of the first alias and its end, by a forward of its own without any padding or packing."""
    text = prompts.generator_prompt(row["question"], [row["candidates"][i] for i in selection])
    prompt = encoding.encode(pipeline.tokenizer, encoding.render(pipeline.tokenizer, text))
    answer = encoding.answer_ids(pipeline.tokenizer, row["answers"][0])
    logits = pipeline.generator(input_ids=torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
    return float(logits.log_softmax(-1)[range(len(answer)), answer].sum())


def test_likelihood_order_is_that_of_separate_forwards(pipeline):
    expected = []
    for row in ROWS:
        scores = [answer_logp(pipeline, row, [i]) for i in range(len(row["candidates"]))]
        assert min(abs(a - b) for i, a in enumerate(scores) for b in scores[:i]) > 1e-3  # No order by rounding.
        expected.append(sorted(range(len(scores)), key=lambda i: -scores[i])[:2])
    assert likelihood_order(task_of(pipeline)) == expected
    assert expected != [[0, 1]] * 4


def test_the_oracle_takes_the_likeliest_of_the_selections_drawn(pipeline):
    task = task_of(pipeline, seed=5)
    for row, chosen, drawn in zip(ROWS, oracle(task), draw_selections(task), strict=True):
        inputs = pipeline.policy.encode([row])
        sample = pipeline.policy.sample(pipeline.selector, inputs, 6, [random_generator(5, 0, row["question"])])
        alone = sample.selections[0].tolist()
        assert drawn == [z for i, z in enumerate(alone) if z not in alone[:i]]
        assert len(drawn) > 1
        assert chosen == max(drawn, key=lambda z: answer_logp(pipeline, row, z))
    assert oracle(task_of(pipeline, seed=5, num_selections=1)) != oracle(task)


def test_a_policy_that_takes_every_passage_in_training_is_drawn_from_as_well(pipeline):
    every = PlackettLucePolicy(tiny_tokenizer(), 2, proposal="every_passage")
    task = task_of(pipeline_of(every))
    assert draw_selections(task) == draw_selections(task_of(pipeline))
    assert every.proposal == "every_passage"


def test_zero_shot_ranking_is_the_greedy_choice_of_the_listwise_prompt(pipeline):
    policy = AutoregressivePolicy(tiny_tokenizer(), 2)
    expected = [policy.best(pipeline.selector, policy.encode([row]))[0][0].tolist() for row in ROWS]
    assert zero_shot_ranking(task_of(pipeline)) == expected
    assert expected != selector_order(task_of(pipeline))


def test_a_policy_that_lacks_something_is_refused():
    policy = types.SimpleNamespace(num_selected=2, **dict.fromkeys(("encode", "sample", "logps", "best")))
    with pytest.raises(ValueError, match="the policy SimpleNamespace has no tokenizer, texts, .* a subclass of"):
        pipeline_of(policy)


def test_random_choices_are_seeded_and_even(pipeline):
    chosen = [random_choice(task_of(pipeline, ROWS[:1], seed=seed))[0] for seed in range(300)]
    assert chosen[7] == random_choice(task_of(pipeline, ROWS[:1], seed=7))[0]
    pairs = [(i, j) for i in range(4) for j in range(4) if i != j]
    assert {tuple(z) for z in chosen} == set(pairs)
    assert all(10 <= chosen.count(list(pair)) <= 45 for pair in pairs)  # 25 of each, more or less.


def test_without_retrieval_the_generator_reads_the_question_alone(pipeline):
    task = task_of(pipeline)
    predictions = predict(pipeline, ROWS, SYSTEMS["no retrieval"].choose(task), max_new_tokens=5)
    assert all(prediction["ranking"] == [] for prediction in predictions)
    alone = [generate_answers(pipeline.generator, pipeline.tokenizer, [r["question"]], [[]], 5)[0] for r in ROWS]
    assert [prediction["answer"] for prediction in predictions] == alone
    assert any(alone)


def test_all_candidates_are_read_in_their_order(pipeline):
    assert SYSTEMS["all candidates"].choose(task_of(pipeline)) == [list(range(n)) for n in (4, 7, 5, 6)]


@pytest.mark.parametrize("shuffle", [None, 3])
@pytest.mark.parametrize("name", SYSTEMS)
def test_neither_batches_nor_the_order_of_rows_matter(pipeline, name, shuffle):
    choose = SYSTEMS[name].choose
    together = task_of(pipeline, shuffle=shuffle, batch_size=3)
    apart = task_of(pipeline, ROWS[::-1], shuffle=shuffle, batch_size=1)
    chosen = ids_of(together, choose(together))
    assert chosen == ids_of(apart, choose(apart))[::-1]
    expected = {"no retrieval": [0] * 4, "all candidates": [4, 7, 5, 6]}.get(name, [2] * 4)
    assert [len(set(ids)) for ids in chosen] == expected


def test_shuffled_candidates_keep_the_retrievers_ranks():
    rows, ranks = shuffled(ROWS, 3)
    for row, shown, order in zip(ROWS, rows, ranks, strict=True):
        assert sorted(order) == list(range(len(order))) != order
        assert shown == {**row, "candidates": [row["candidates"][rank] for rank in order]}
    assert shuffled(ROWS, 3) == (rows, ranks) != shuffled(ROWS, 4)
    assert shuffled(ROWS, None) == (ROWS, [list(range(n)) for n in (4, 7, 5, 6)])


@pytest.mark.parametrize("choose", [retriever_order, selector_order, likelihood_order])
def test_what_does_not_see_the_order_chooses_the_same_of_shuffled_candidates(pipeline, choose):
    task, shuffled_task = task_of(pipeline), task_of(pipeline, shuffle=3)
    assert ids_of(task, choose(task)) == ids_of(shuffled_task, choose(shuffled_task))


def test_what_sees_the_order_shows_its_bias(pipeline):
    task, shuffled_task = task_of(pipeline), task_of(pipeline, shuffle=3)
    assert ids_of(task, zero_shot_ranking(task)) != ids_of(shuffled_task, zero_shot_ranking(shuffled_task))
