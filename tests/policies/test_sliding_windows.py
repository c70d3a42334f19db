"""Selections by windows: the best of a long list wherever they stand, and the same as without where nothing is cut."""

import random

import pytest
import torch

from dro_trl import AutoregressivePolicy, PlackettLucePolicy, RAGPipeline
from dro_trl.evaluation.systems import Task, draw_selections, zero_shot_ranking
from dro_trl.policies.randomness import shuffled
from dro_trl.policies.sliding_windows import SlidingWindows, select_by_windows
from tests.helpers.tiny_models import record_forwards, tiny_model, tiny_questions, tiny_tokenizer

ROWS = tiny_questions(4, 23, 9, 60, 10, 11)
for row in ROWS:
    for i, passage in enumerate(row["candidates"]):
        passage["text"] += f" That was in {1800 + i}."  # No two alike: no order by rounding.


def pipeline_of(policy, **windows):
    models = (tiny_model("llama", tiny_tokenizer(), seed=seed) for seed in (1, 2))
    return RAGPipeline(*models, policy, tiny_tokenizer(), **windows)


def policy_of(item_score, num_selected=3, **kwargs):
    if item_score == "autoregressive":
        return AutoregressivePolicy(tiny_tokenizer(), num_selected)
    return PlackettLucePolicy(tiny_tokenizer(), num_selected, item_score=item_score, **kwargs)


def test_where_windows_stand():
    """RankGPT's 100 candidates by windows of 20 and a stride of 10: 80-100, 70-90, ..., 0-20."""
    windows = SlidingWindows.make(20, 10, 5)
    assert [(place.start, place.stop) for place in windows.places(100, 10)] == [
        (s, s + 20) for s in range(80, -1, -10)
    ]
    assert [place.start for place in windows.places(25, 10)] == [5, 0]
    assert [place.start for n in (5, 20) for place in windows.places(n, 10)] == [0, 0]
    assert SlidingWindows.make(7, None, 4) == SlidingWindows(7, 3)


class KnownScores:
    """Selects by the passages' `score`, which no order of the candidates betrays."""

    def __init__(self, num_selected):
        self.num_selected = num_selected
        self.sizes = []

    def __call__(self, rows):
        self.sizes.append([len(row["candidates"]) for row in rows])
        scores = [[passage["score"] for passage in row["candidates"]] for row in rows]
        orders = [sorted(range(len(row)), key=lambda i: -row[i])[: self.num_selected] for row in scores]
        return [(order, [row[i] for i in order]) for order, row in zip(orders, scores, strict=True)]


@pytest.mark.parametrize(("size", "stride", "num_selected"), [(20, 10, 5), (20, 15, 5), (7, 3, 4), (3, 1, 2)])
def test_the_best_are_found_wherever_they_stand(size, stride, num_selected):
    chance = random.Random(size)
    rows = tiny_questions(*[100] * 30, 37, 4)
    for row in rows:
        for passage, score in zip(row["candidates"], chance.sample(range(1000), 100), strict=False):
            passage["score"] = float(score)
    best, windows = KnownScores(num_selected), SlidingWindows.make(size, stride, num_selected)
    found = select_by_windows(best, rows, windows)
    assert found == KnownScores(num_selected)(rows)
    last = {order.index(max(order)) for order in ([p["score"] for p in row["candidates"]] for row in rows)}
    assert max(last) > 80  # The best of some row stands near the end of the list.
    assert max(map(max, best.sizes)) == size
    assert len(best.sizes) == len(windows.places(100, stride))  # The windows of all rows move together.


@pytest.mark.parametrize("prior", [0.0, 0.5])
@pytest.mark.parametrize("item_score", ["pointwise", "query_likelihood"])
def test_scores_that_see_no_other_passage_select_as_without_windows(item_score, prior):
    policy = policy_of(item_score, retriever_prior=prior)
    whole = pipeline_of(policy).select(ROWS, 2)
    pipeline = pipeline_of(policy, window_size=7, window_stride=2)
    forwards = record_forwards(pipeline.selector)
    windowed = pipeline.select(ROWS, 2)
    assert [selection for selection, _ in windowed] == [selection for selection, _ in whole]
    for (_, scores), (_, expected) in zip(windowed, whole, strict=True):
        assert scores == pytest.approx(expected, abs=1e-4)
    assert len(forwards) == 10  # 1, 4, 2, 9, 2 and 2 windows, two in a forward: each passage is scored about once.
    assert any(selection != [0, 1, 2] for selection, _ in whole)


@pytest.mark.parametrize("item_score", ["autoregressive", "identifier", "passage_end"])
def test_a_window_that_holds_all_candidates_changes_nothing(item_score):
    rows = [row for row in ROWS if len(row["candidates"]) < 30]
    policy = policy_of(item_score)
    assert pipeline_of(policy, window_size=23).select(rows, 4) == pipeline_of(policy).select(rows, 4)


@pytest.mark.parametrize("item_score", ["autoregressive", "identifier", "passage_end"])
def test_listwise_windows_are_those_of_separate_prompts(item_score):
    """Each question alone, window by window; neither batches nor the other questions matter."""
    policy = policy_of(item_score)
    pipeline = pipeline_of(policy, window_size=10, window_stride=1)
    expected = []
    for row in ROWS:
        order = list(range(len(row["candidates"])))
        start = max(len(order) - 10, 0)
        while True:
            window = order[start : start + 10]
            shown = {**row, "candidates": [row["candidates"][i] for i in window]}
            with torch.no_grad():
                chosen, _ = policy.best(pipeline.selector, policy.encode([shown]))
            first = [window[j] for j in chosen[0].tolist()]
            order[start : start + 10] = first + [i for i in window if i not in first]
            if start == 0:
                break
            start -= 1
        expected.append(order[:3])
    for batch_size in (1, 4):
        assert [selection for selection, _ in pipeline.select(ROWS, batch_size)] == expected
    assert max(max(selection) for selection in expected) > 10  # Something came from beyond the first window.


def test_letters_suffice_for_any_number_of_candidates():
    policy = policy_of("identifier")
    with pytest.raises(ValueError, match=r"has 60 candidates, .* 52 letters; .* or select by windows \(window_size"):
        pipeline_of(policy).select(ROWS)
    assert len(pipeline_of(policy, window_size=20).select(ROWS)) == len(ROWS)


def test_zero_shot_ranking_moves_by_windows_and_the_oracle_does_not():
    task = Task(pipeline_of(policy_of("identifier"), window_size=10, window_stride=6), *shuffled(ROWS, None))
    ranking = pipeline_of(policy_of("autoregressive"), window_size=10, window_stride=6)
    assert zero_shot_ranking(task) == [selection for selection, _ in ranking.select(ROWS)]
    with pytest.raises(ValueError, match="'oracle' draws from all candidates at once, of which there are 60, and not"):
        draw_selections(task)
    alone = Task(pipeline_of(policy_of("pointwise"), window_size=10), *shuffled(ROWS, None), num_selections=2)
    assert len(draw_selections(alone)) == len(ROWS)


@pytest.mark.parametrize(
    ("windows", "message"),
    [
        ({"window_stride": 4}, "window_stride=4 without a window_size"),
        ({"window_size": 3}, "window_size=3 leaves nothing to choose with num_selected=3"),
        (
            {"window_size": 10, "window_stride": 8},
            "window_stride=8 with window_size=10 and num_selected=3: .* set window_stride to between 1 and 7",
        ),
        ({"window_size": 10, "window_stride": 0}, "window_stride=0 with window_size=10"),
        ({"window_size": 5, "window_stride": None, "num_selected": 4}, "window_stride=2 with window_size=5"),
    ],
)
def test_windows_that_lose_what_was_selected_are_refused(windows, message):
    policy = policy_of("pointwise", windows.pop("num_selected", 3))
    with pytest.raises(ValueError, match=message):
        pipeline_of(policy, **windows)
