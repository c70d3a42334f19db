"""Systems compared: intervals that cover, and every misuse refused."""

import copy

import numpy as np
import pytest
from scipy.stats import norm

from dro_trl.evaluation.bootstrap import mean_interval
from dro_trl.evaluation.comparison import compare
from dro_trl.evaluation.groups import Column


def compare_two(first, second, ks=(1, 2), seed=0, n_resamples=2000):
    systems = {"trained": first, "bm25": second}
    return compare(systems, target="trained", baselines=["bm25"], ks=ks, seed=seed, n_resamples=n_resamples)


def test_means_and_differences_worked_by_hand(make_system):
    """Four questions, two with gold passages. trained has gold first in both, bm25 in none; 3 of 4 against 1 of 4."""
    trained = make_system(0, 1.0, 1.0, n=4, gold_every=2)
    bm25 = make_system(0, 0.0, 0.0, n=4, gold_every=2)
    trained[3]["answer"] = "Rome"
    bm25[0]["answer"] = "Paris"
    report = compare_two(trained, bm25, n_resamples=500)
    retrieval = dict.fromkeys(["recall@1", "recall@2", "mrr", "ndcg@1", "ndcg@2"], 1)
    assert report.systems["trained"] == retrieval | {"em": 0.75, "f1": 0.75, "n": 4, "n_with_gold": 2}
    assert report.systems["bm25"]["mrr"] == 0.5
    found = {c.metric: c for c in report.comparisons}
    assert {m: (c.delta, c.n) for m, c in found.items() if "ndcg" not in m} == {
        "recall@1": (1, 2), "recall@2": (0, 2), "mrr": (0.5, 2), "em": (0.5, 4), "f1": (0.5, 4),
    }  # fmt: skip
    assert {(c.system, c.baseline, c.seed, c.n_resamples) for c in report.comparisons} == {("trained", "bm25", 0, 500)}
    assert (found["recall@1"].ci95, found["recall@1"].method) == ([1, 1], "percentile")
    assert found["em"].method == "BCa"
    low, high = found["em"].ci95
    assert low <= found["em"].delta <= high


def test_identical_systems_differ_by_zero(make_system):
    system = make_system(0, 0.6, 0.4)
    report = compare_two(system, copy.deepcopy(system))
    assert len(report.comparisons) == 7
    for comparison in report.comparisons:
        assert (comparison.delta, comparison.ci95, comparison.method) == (0, [0, 0], "percentile")
        assert not comparison.significant
    assert report.systems["trained"] == report.systems["bm25"]


def test_same_seed_same_report_and_another_seed_another(make_system):
    first, second = make_system(0, 0.9, 0.8), make_system(1, 0.4, 0.5)
    report = compare_two(first, second)
    assert compare_two(first, second) == report
    other = compare_two(first, second, seed=1)
    assert other.systems == report.systems
    assert [c.ci95 for c in other.comparisons] != [c.ci95 for c in report.comparisons]


def test_the_pairing_is_used(make_system):
    """A system that mends 10 % of another's answers: the paired interval is far narrower than the means' own."""
    before = make_system(0, 0.5, 0.5, n=200)
    after = copy.deepcopy(before)
    for prediction in after[::10]:
        prediction["answer"] = "Paris"
    report = compare_two(after, before)
    comparison = next(c for c in report.comparisons if c.metric == "em")
    low, high = report.systems_ci95["bm25"]["em"]
    assert comparison.significant
    assert comparison.ci95[1] - comparison.ci95[0] < (high - low) / 2


def test_intervals_cover_the_true_mean():
    """200 samples of 60 skewed values: about 190 of the intervals hold the mean (here at least 175, at most 199)."""
    rng = np.random.default_rng(0)
    samples = rng.exponential(size=(200, 60))
    intervals = [mean_interval(sample, seed=0, n_resamples=1000) for sample in samples]
    assert {interval.method for interval in intervals} == {"BCa"}
    covered = sum(interval.ci95[0] <= 1 <= interval.ci95[1] for interval in intervals)
    assert 175 <= covered <= 199


def test_the_interval_agrees_with_the_normal_one_on_a_large_sample():
    values = np.random.default_rng(0).normal(0.3, 1, size=4000)
    half_width = norm.ppf(0.975) * values.std() / np.sqrt(len(values))
    expected = [values.mean() - half_width, values.mean() + half_width]
    np.testing.assert_allclose(mean_interval(values, seed=0).ci95, expected, atol=0.05 * half_width)


def test_many_values_have_the_interval_that_few_have_without_a_jackknife_of_each(monkeypatch):
    """Skewed scores, so that a plain percentile interval lies elsewhere."""
    values = np.random.default_rng(0).choice([0, 0, 0, 0, 0, 0, 0, 0, 0.2, 1, 5], 300) ** 2
    expected = mean_interval(values, seed=0)
    monkeypatch.setattr("dro_trl.evaluation.bootstrap.MANY", 100)
    found = mean_interval(values, seed=0)
    assert found.method == expected.method == "BCa"
    np.testing.assert_allclose(found.ci95, expected.ci95, atol=0.03 * np.ptp(expected.ci95))
    assert mean_interval(np.full(200, 0.5), seed=0) == ([0.5, 0.5], "percentile")
    monkeypatch.delattr("dro_trl.evaluation.bootstrap.bootstrap")  # SciPy's, which takes time with n squared.
    low, high = mean_interval((np.arange(300_000) % 4 == 0).astype(float), seed=0).ci95
    assert 0.248 < low < 0.25 < high < 0.252


@pytest.mark.parametrize(
    ("values", "expected"), [([], (None, None)), ([0.5], (None, None)), ([0.5] * 3, ([0.5] * 2, "percentile"))]
)
def test_degenerate_samples(values, expected):
    assert mean_interval(np.array(values), seed=0, n_resamples=100) == expected


def test_metrics_that_no_question_has_are_null_and_not_compared(make_system):
    system = make_system(0, 0.5, 0.5)
    for prediction in system:
        prediction["gold_ids"] = None
    report = compare_two(system, copy.deepcopy(system), ks=[1])
    assert report.systems["bm25"]["recall@1"] is None
    assert report.systems_ci95["bm25"]["recall@1"] is None
    assert report.systems["bm25"]["n_with_gold"] == 0
    assert [c.metric for c in report.comparisons] == ["em", "f1"]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (
            "question",
            "Other?",
            r"row 7, field 'question': system 'trained' has 'Question 7\?' and system 'bm25' has 'Other",
        ),
        ("answers", ["Rome"], r"row 7, field 'answers': .*\['Paris'\] and system 'bm25' has \['Rome'\]"),
        ("gold_ids", None, r"row 7, field 'gold_ids': .*\['gold'\] and system 'bm25' has None"),
        ("ranking", ["gold"], r"row 7, field 'ranking': system 'trained' ranks 2 .* 'bm25' ranks 1.*lower .* ks to 1"),
    ],
)
def test_the_first_row_that_differs_is_named(make_system, field, value, message):
    first, second = make_system(0, 0.5, 0.5), make_system(1, 0.5, 0.5)
    second[7][field] = value
    second[9]["question"] = "A later difference"
    with pytest.raises(ValueError, match=message):
        compare_two(first, second)


def test_a_missing_row_is_named(make_system):
    message = "row 59: system 'trained' has 60 predictions and system 'bm25' has 59; compare systems on the same"
    with pytest.raises(ValueError, match=message):
        compare_two(make_system(0, 0.5, 0.5), make_system(1, 0.5, 0.5)[:-1])


def test_longer_rankings_are_no_matter_within_the_depth_nor_is_a_system_without_retrieval(make_system):
    first, second = make_system(0, 0.5, 0.5), make_system(1, 0.5, 0.5)
    for prediction in second:
        prediction["ranking"] = prediction["ranking"][:1]
    assert compare_two(first, second, ks=[1]).systems["bm25"]["n"] == 60
    for prediction in second:
        prediction["ranking"] = []
    report = compare_two(first, second)
    assert report.systems["bm25"]["recall@2"] is None  # Not 0: it was not asked for any passage.
    assert report.systems["bm25"]["n_with_gold"] == report.systems["trained"]["n_with_gold"] == 60
    assert {comparison.metric for comparison in report.comparisons} == {"em", "f1"}


def test_names_are_checked(make_system):
    systems = {"trained": make_system(0, 0.5, 0.5)}
    options = {"ks": [1], "seed": 0, "n_resamples": 100}
    with pytest.raises(ValueError, match=r"target 'tuned' is not among the systems \['trained'\]"):
        compare(systems, target="tuned", baselines=[], **options)
    with pytest.raises(ValueError, match=r"baseline 'bm25' is not among the systems \['trained'\]"):
        compare(systems, target="trained", baselines=["bm25"], **options)
    with pytest.raises(ValueError, match="target 'trained' is also among the baselines"):
        compare(systems, target="trained", baselines=["trained"], **options)
    with pytest.raises(ValueError, match="system 'trained' has no predictions"):
        compare({"trained": []}, target="trained", baselines=[], **options)
    with pytest.raises(ValueError, match="give at least one depth"):
        compare(systems, target="trained", baselines=[], ks=[], seed=0)
    assert compare(systems, target="trained", baselines=[], **options).comparisons == []


def test_a_group_is_a_comparison_of_its_questions_alone(make_system):
    first, second = make_system(0, 0.9, 0.8, gold_every=3), make_system(1, 0.4, 0.5, gold_every=3)
    hops = [1 + number % 3 for number in range(60)]
    options = {"target": "trained", "baselines": ["bm25"], "ks": (1, 2), "seed": 4, "n_resamples": 200}
    options["extra_metrics"] = ["map"]
    report = compare({"trained": first, "bm25": second}, **options, by=Column("hops", hops))
    options["extra_metrics"] = ["map", "all_gold"]
    whole = compare({"trained": first, "bm25": second}, **options)
    assert (report.systems, report.systems_ci95, report.comparisons) == (
        whole.systems,
        whole.systems_ci95,
        whole.comparisons,
    )
    assert (whole.by, whole.groups, report.by) == (None, [], "hops")
    assert [group.value for group in report.groups] == [1, 2, 3]
    for group in report.groups:
        systems = {
            name: [row for row, value in zip(rows, hops, strict=True) if value == group.value]
            for name, rows in (("trained", first), ("bm25", second))
        }
        alone = compare(systems, **options)
        assert (group.systems, group.systems_ci95, group.comparisons) == (
            alone.systems,
            alone.systems_ci95,
            alone.comparisons,
        )
    # Every third question has gold passages: those of the first group.
    assert [group.systems["trained"]["n_with_gold"] for group in report.groups] == [20, 0, 0]
    assert {c.metric for c in report.groups[1].comparisons} == {"em", "f1"}


def test_a_column_of_other_questions_is_refused(make_system):
    system = make_system(0, 0.5, 0.5)
    with pytest.raises(ValueError, match=r"column 'hops' has 2 values and system 'only' has 60 predictions; give one"):
        compare({"only": system}, target="only", baselines=[], ks=[1], seed=0, by=Column("hops", [1, 2]))
