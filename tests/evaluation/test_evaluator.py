"""From a pipeline and rows to the predictions that are scored."""

import pytest

from dro_trl import PlackettLucePolicy, RAGPipeline
from dro_trl.evaluation.evaluator import evaluate_pair, predict
from dro_trl.evaluation.systems import Task, retriever_order, selector_order
from dro_trl.policies.randomness import shuffled
from tests.helpers.tiny_models import tiny_model, tiny_questions, tiny_tokenizer


@pytest.fixture(scope="module")
def pipeline():
    tokenizer = tiny_tokenizer()
    models = (tiny_model("llama", tokenizer, seed=seed) for seed in (1, 2))
    return RAGPipeline(*models, PlackettLucePolicy(tokenizer, 2), tokenizer)


CHOICES = {"selector": selector_order, "retriever": retriever_order}


@pytest.mark.parametrize("order", CHOICES)
def test_a_prediction_holds_what_was_read_and_written(pipeline, order):
    rows = tiny_questions(4, 6, 5)
    del rows[1]["gold_ids"]
    outputs = pipeline.predict(rows, order=order, max_new_tokens=4)
    selections = CHOICES[order](Task(pipeline, *shuffled(rows, None), batch_size=2))
    predictions = predict(pipeline, rows, selections, batch_size=2, max_new_tokens=4)
    assert len(predictions) == 3
    for row, output, prediction in zip(rows, outputs, predictions, strict=True):
        assert prediction == {
            "question": row["question"],
            "answers": row["answers"],
            "gold_ids": row.get("gold_ids"),
            "ranking": [passage["id"] for passage in output.passages],
            "answer": output.answer,
        }


def test_the_two_orders_differ(pipeline):
    rows = tiny_questions(6, 6, 6)
    task = Task(pipeline, *shuffled(rows, None))
    ranked = {
        order: [p["ranking"] for p in predict(pipeline, rows, choose(task), max_new_tokens=1)]
        for order, choose in CHOICES.items()
    }
    assert ranked["retriever"] == [["0-0", "0-1"], ["1-0", "1-1"], ["2-0", "2-1"]]
    assert ranked["selector"] != ranked["retriever"]


@pytest.mark.parametrize(
    ("systems", "message"),
    [
        (["start"], r"systems=\['start'\] must hold 'trained'"),
        (["trained", "bm25"], "unknown system 'bm25'; there are 'start, retriever order', 'start', 'no retrieval', "),
        (["trained", "orcale"], r"unknown system 'orcale'; did you mean 'oracle'\?"),
        (["trained", "likelihood"], r"unknown system 'likelihood'; did you mean 'likelihood order'\?"),
    ],
)
def test_systems_that_cannot_be_compared(systems, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        evaluate_pair(tmp_path, [], systems)
