"""Per-question scores, worked by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dro_trl.evaluation.scores import EXTRA_METRICS, Prediction, retrieval_metrics, score_predictions


def predict(ranking: str, gold: str | None, answer: str = "Paris") -> Prediction:
    """Make a prediction whose passages are single letters."""
    gold_ids = None if gold is None else list(gold)
    return Prediction(question="Q?", answers=["Paris"], gold_ids=gold_ids, ranking=list(ranking), answer=answer)


def test_scores_worked_by_hand():
    """Gold {a, b} in the ranking x a b, and gold {c} in second place of c's ranking y c.

    Row 0: recall@1 0, recall@2 1/2, recall@3 1; first gold at rank 2, so 1/2. DCG@2 = 1/log2(3) over the ideal
    1 + 1/log2(3); DCG@3 = 1/log2(3) + 1/log2(4) over the same ideal.
    Row 1: nothing at 1, all at 2; nDCG@2 = nDCG@3 = 1/log2(3) over the ideal 1.
    """
    scores = score_predictions([predict("xab", "ab"), predict("yc", "c", "Paris, France")], ks=[3, 1, 2])
    ideal = 1 + 1 / math.log2(3)
    expected = {
        "recall@1": [0, 0],
        "recall@2": [1 / 2, 1],
        "recall@3": [1, 1],
        "mrr": [1 / 2, 1 / 2],
        "ndcg@1": [0, 0],
        "ndcg@2": [1 / math.log2(3) / ideal, 1 / math.log2(3)],
        "ndcg@3": [(1 / math.log2(3) + 1 / 2) / ideal, 1 / math.log2(3)],
        "em": [1, 0],
        "f1": [1, 2 / 3],
    }
    assert list(scores) == list(expected)
    for metric, values in expected.items():
        np.testing.assert_allclose(scores[metric], values, atol=1e-6, err_msg=metric)


def test_the_reciprocal_rank_is_cut_at_the_largest_depth():
    long, short = predict("wxya", "a"), predict("wxy", "a")
    assert score_predictions([long, short], ks=[3])["mrr"].tolist() == [0, 0]
    assert score_predictions([long, short], ks=[4])["mrr"].tolist() == [1 / 4, 0]


def test_questions_without_gold_passages_have_no_retrieval_scores():
    scores = score_predictions([predict("ab", None), predict("ab", ""), predict("ab", "a")], ks=[1])
    for metric in retrieval_metrics([1]):
        np.testing.assert_array_equal(scores[metric], [np.nan, np.nan, 1])
    assert scores["em"].tolist() == [1, 1, 1]


def test_a_dataset_without_any_gold_passages():
    scores = score_predictions([predict("ab", None)], ks=[1])
    assert np.isnan(scores["recall@1"]).all()
    assert scores["f1"].tolist() == [1]


def test_an_empty_ranking_retrieves_nothing():
    scores = score_predictions([predict("", "a"), predict("a", "a")], ks=[1, 5])
    assert [scores[metric].tolist() for metric in retrieval_metrics([1, 5])] == [[0, 1]] * 5


def test_a_system_that_never_retrieves_has_no_recall():
    scores = score_predictions([predict("", "a"), predict("", "b")], ks=[1, 5])
    assert all(np.isnan(scores[metric]).all() for metric in retrieval_metrics([1, 5]))


@given(st.permutations("abcdef"), st.sets(st.sampled_from("abcdefz"), min_size=1), st.integers(1, 6))
def test_recall_is_the_share_of_gold_among_the_first_k(ranking, gold, k):
    prediction = predict("".join(ranking), "".join(sorted(gold)))
    scores = {name: values.item() for name, values in score_predictions([prediction], ks=[k]).items()}
    assert scores[f"recall@{k}"] == pytest.approx(len(gold & set(ranking[:k])) / len(gold))
    hits = [1 / (rank + 1) for rank, passage in enumerate(ranking[:k]) if passage in gold]
    assert scores["mrr"] == pytest.approx(max(hits, default=0))
    gains = [float(passage in gold) for passage in ranking[:k]]
    discounts = 1 / np.log2(np.arange(2, k + 2))
    assert scores[f"ndcg@{k}"] == pytest.approx(gains @ discounts / discounts[: len(gold)].sum(), abs=1e-6)


@pytest.mark.parametrize("ks", [[], [0, 1]])
def test_depths_must_be_positive(ks):
    with pytest.raises(ValueError, match=r"ks=\[.*\]: give at least one depth, each 1 or more"):
        score_predictions([predict("a", "a")], ks=ks)


def test_a_passage_ranked_twice_is_named():
    with pytest.raises(ValueError, match=r"row 1 \(question 'Q\?'\): the ranking names passage 'b' twice"):
        score_predictions([predict("ab", "a"), predict("bab", "a")], ks=[1])


def test_extra_metrics_worked_by_hand():
    """Average precision: gold {a, b} at ranks 2 and 3 of x a b, so (1/2 + 2/3) / 2; cut at 2 only 1/2 of it counts.

    "It is Paris" holds the answer, and shares one word of its three with it: 2 (1/3 · 1) / (1/3 + 1) = 1/2.
    """
    predictions = [predict("xab", "ab", "It is Paris"), predict("ab", None, "Parisian")]
    plain = score_predictions(predictions, ks=[3])
    scores = score_predictions(predictions, ks=[3], extra=EXTRA_METRICS)
    assert list(scores) == [*list(plain)[:-2], "success@3", "map", "all_gold", "em", "f1", "acc", "rouge_l"]
    for metric, values in plain.items():
        np.testing.assert_array_equal(values, scores[metric])
    np.testing.assert_allclose(scores["map"], [(1 / 2 + 2 / 3) / 2, np.nan])
    np.testing.assert_allclose(score_predictions(predictions, ks=[2], extra=["map"])["map"], [1 / 4, np.nan])
    np.testing.assert_array_equal(scores["success@3"], [1, np.nan])
    depths = score_predictions(predictions, ks=[2, 1], extra=["success"])
    np.testing.assert_array_equal([depths["success@1"], depths["success@2"]], [[0, np.nan], [1, np.nan]])
    assert scores["acc"].tolist() == [1, 0]
    np.testing.assert_allclose(scores["rouge_l"], [1 / 2, 0])


def test_all_gold_is_whether_none_is_missing_at_the_largest_depth():
    """Gold {a, b}: both among x a b, one among a x y, both but the second too late in a x y b; three do not fit 2."""
    rankings = [predict(ranking, "ab") for ranking in ("xab", "axy", "axyb")]
    rankings += [predict("a", "a"), predict("", "a"), predict("ab", None)]
    found = {ks: score_predictions(rankings, ks, ["all_gold"])["all_gold"] for ks in ((1, 3), (3,), (4,))}
    np.testing.assert_array_equal(found[1, 3], [1, 0, 0, 1, 0, np.nan])
    np.testing.assert_array_equal(found[3,], found[1, 3])
    np.testing.assert_array_equal(found[4,], [1, 0, 1, 1, 0, np.nan])
    assert score_predictions([predict("abc", "abc")], [2], ["all_gold"])["all_gold"].tolist() == [0]


def test_an_exact_match_is_accurate_whatever_its_articles_and_signs():
    """EM takes "Hague!" for "The Hague", whose words do not stand in it; only the last is neither."""
    predictions = [predict("a", "a", answer) for answer in ("Hague!", "in the Hague", "in Hague")]
    predictions = [{**prediction, "answers": ["The Hague"]} for prediction in predictions]
    scores = score_predictions(predictions, ks=[1], extra=["acc"])
    assert scores["em"].tolist() == [1, 0, 0]
    assert scores["acc"].tolist() == [1, 1, 0]


def test_an_unknown_extra_metric_is_named():
    expected = r"unknown metrics \['bleu'\]; expected some of success, map, all_gold, acc, rouge_l"
    with pytest.raises(ValueError, match=expected):
        score_predictions([predict("a", "a")], ks=[1], extra=["acc", "bleu"])
