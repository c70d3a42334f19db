"""From a pipeline and rows to the predictions that are scored."""

import pytest

from dro_trl import PlackettLucePolicy, RAGPipeline
from dro_trl.evaluation.evaluator import evaluate_pair, predict
from tests.tiny_models import tiny_model, tiny_questions, tiny_tokenizer


@pytest.fixture(scope="module")
def pipeline():
    tokenizer = tiny_tokenizer()
    models = (tiny_model("llama", tokenizer, seed=seed) for seed in (1, 2))
    return RAGPipeline(*models, PlackettLucePolicy(tokenizer, 2), tokenizer)


@pytest.mark.parametrize("order", ["selector", "retriever"])
def test_a_prediction_holds_what_was_read_and_written(pipeline, order):
    rows = tiny_questions(4, 6, 5)
    del rows[1]["gold_ids"]
    outputs = pipeline.predict(rows, order=order, max_new_tokens=4)
    predictions = predict(pipeline, rows, order, batch_size=2, max_new_tokens=4)
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
    ranked = {order: [p["ranking"] for p in predict(pipeline, rows, order)] for order in ("selector", "retriever")}
    assert ranked["retriever"] == [["0-0", "0-1"], ["1-0", "1-1"], ["2-0", "2-1"]]
    assert ranked["selector"] != ranked["retriever"]


@pytest.mark.parametrize("systems", [["start"], ["trained", "bm25"]])
def test_systems_that_cannot_be_compared(systems, tmp_path):
    with pytest.raises(ValueError, match=r"must hold 'trained' and otherwise some of \['start, retriever order'"):
        evaluate_pair(tmp_path, [], systems)
