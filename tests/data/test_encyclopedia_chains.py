"""Questions of several passages: whose passages nobody tells from their like alone, and which BM25 finds."""

import re
from collections import Counter, defaultdict
from statistics import mean

import pytest

from dro_trl.data.encyclopedia import FictionalEncyclopedia
from dro_trl.data.encyclopedia_facts import AGE, ATTRIBUTES, LINKS
from dro_trl.retrieval.pyserini import PyseriniRetriever

SHARES = {"two_hop": 0.4, "three_hop": 0.3, "comparison": 0.2}
PEOPLE = {"two_hop": 6, "three_hop": 8, "comparison": 4}
PASSAGES = {"two_hop": 8, "three_hop": 9, "comparison": 8}
PATTERNS = [
    (relation, number, re.compile(wording.statement.format(x=r"(?P<x>\w+ \w+)", v=r"(?P<v>[\w ]+)")))
    for relation in (*ATTRIBUTES["Person"], *LINKS["Person"], AGE)
    for number, wording in enumerate(relation.wordings)
]


@pytest.fixture(scope="module", params=(0, 1, 2))
def world(request):
    return FictionalEncyclopedia.generate(request.param, num_train=200, num_eval=100, **SHARES)


def told(passage):
    """Read relation, number of the wording and value back from a passage's sentence."""
    found = [
        (relation, number, match["v"])
        for relation, number, pattern in PATTERNS
        if (match := pattern.fullmatch(passage["text"])) and match["x"] == passage["title"]
        if match["v"] in relation.values or not relation.values
    ]
    assert len(found) == 1, passage
    return found[0]


def houses(world, *kinds):
    """Yield each question of these kinds with what its house tells: (subject, relation name) -> (wording, value)."""
    passages = {passage["id"]: passage for passage in world.corpus}
    families = defaultdict(list)
    for passage in world.corpus:
        families[passage["title"].split()[1]].append(passage)
    for row in world.train + world.eval:
        if row["kind"] in kinds:
            golds = [passages[gold] for gold in row["gold_ids"]]
            house = families[golds[0]["title"].split()[1]]
            facts = {(passage["title"], told(passage)[0].name): told(passage)[1:] for passage in house}
            assert len(facts) == len(house) == PASSAGES[row["kind"]]
            yield row, golds, facts


def readings(row, facts):
    """Answer a question about links by the house's sentences alone: the values that its readings lead to."""
    links, answers = LINKS["Person"], []
    starts = [(person, person) for person, _ in facts]
    for phrase, person in dict.fromkeys(starts):
        reached = [(phrase, person)]
        for _ in range(row["hops"] - 1):
            reached = [
                (link.phrase.format(x=text), facts[end, link.name][1])
                for text, end in reached
                for link in links
                if (end, link.name) in facts
            ]
        answers += [
            facts[end, relation.name][1]
            for text, end in reached
            for relation in ATTRIBUTES["Person"]
            for wording in relation.wordings
            if wording.question.format(x=text) == row["question"] and (end, relation.name) in facts
        ]
    return answers


def test_as_many_questions_of_each_kind_as_asked_for(world):
    for part, scale in ((world.train, 2), (world.eval, 1)):
        kinds = Counter(row["kind"] for row in part)
        assert kinds == {
            "one_hop": 10 * scale,
            "two_hop": 40 * scale,
            "three_hop": 30 * scale,
            "comparison": 20 * scale,
        }
        hops = {"one_hop": 1, "two_hop": 2, "three_hop": 3, "comparison": 2}
        assert all(hops[row["kind"]] == row["hops"] == len(row["gold_ids"]) for row in part)


@pytest.mark.parametrize(
    ("number", "shares", "kinds"),
    [
        (10, {"two_hop": 1.0}, {"two_hop": 10}),
        (10, {"two_hop": 0.0}, {"one_hop": 10}),
        (10, {"two_hop": 0.2}, {"two_hop": 2, "one_hop": 8}),
        (10, {"two_hop": 0.15, "comparison": 0.1}, {"two_hop": 2, "comparison": 1, "one_hop": 7}),
        (10, {"two_hop": 0.1, "three_hop": 0.2, "comparison": 0.7}, {"two_hop": 1, "three_hop": 2, "comparison": 7}),
        (1, {"three_hop": 0.4}, {"one_hop": 1}),
        (3, {"three_hop": 0.4}, {"three_hop": 1, "one_hop": 2}),
        (1, {"comparison": 1.0}, {"comparison": 1}),
    ],
)
def test_counts_of_any_shares(number, shares, kinds):
    world = FictionalEncyclopedia.generate(0, number, 1, **shares)
    assert Counter(row["kind"] for row in world.train) == kinds


def test_a_chain_has_one_answer_and_it_stands_in_the_last_passage(world):
    for row, golds, facts in houses(world, "two_hop", "three_hop"):
        assert readings(row, facts) == row["answers"]
        assert told(golds[-1])[2] == row["answers"][0]
        for passage, following in zip(golds, golds[1:], strict=False):
            assert told(passage)[2] == following["title"]


def test_a_question_names_nobody_but_whom_it_starts_from(world):
    for row, golds, facts in houses(world, "two_hop", "three_hop"):
        first, *others = (passage["title"] for passage in golds)
        assert first in row["question"]
        firsts = {person.split()[0] for person, _ in facts} - {first.split()[0]}
        assert {other.split()[0] for other in others} <= firsts
        assert not firsts & set(re.findall(r"\w+", row["question"]))


def test_every_passage_of_a_chain_has_its_like_with_other_values(world):
    """The last: two others' in the same words at least. A link: one other's, and another way on from whom it names."""
    for row, golds, facts in houses(world, "two_hop", "three_hop"):
        answer = row["answers"][0]
        for gold in golds:
            relation, wording, value = told(gold)
            like = {person: found for (person, name), found in facts.items() if name == relation.name}
            others = [found for person, found in like.items() if person != gold["title"]]
            assert len(others) >= (1 if row["kind"] == "three_hop" and gold is golds[0] else 2)
            assert {number for number, _ in others} == {wording}
            assert value not in {found for _, found in others}
        relation = told(golds[-1])[0]
        values = [value for (_, name), (_, value) in facts.items() if name == relation.name]
        assert len(set(values)) == len(values)
        assert values.count(answer) == 1
        named = [name for person, name in facts if person == golds[0]["title"]]
        assert len(named) >= 2  # Of whom the question names, something else is told too.


def test_whom_the_right_link_leads_to_is_one_of_three_who_are_alike_without_it(world):
    """Without the links, nothing but the names tells the last passage from two others of other people's."""
    for row, golds, facts in houses(world, "two_hop", "three_hop"):
        relation = told(golds[-1])[0]
        alike = {person for person, name in facts if name == relation.name} - {golds[0]["title"]}
        assert len(alike) == 3
        linked = {value for (_, name), (_, value) in facts.items() if name == told(golds[-2])[0].name}
        assert linked == alike, row


def test_a_comparison_is_right_balanced_and_rests_on_both_ages(world):
    rows = list(houses(world, "comparison"))
    first_is_right, greater, guessed = [], [], []
    for row, golds, facts in rows:
        ages = [int(told(passage)[2]) for passage in golds]
        names = [passage["title"] for passage in golds]
        wants_greater = "older" in row["question"]
        assert row["question"].endswith(f"{names[0]} or {names[1]}?")
        right = (ages[0] > ages[1]) == wants_greater
        assert row["answers"] == [names[not right].split()[0]]
        assert ages[0] // 10 != ages[1] // 10
        people_of_age = [person for person, name in facts if name == "age"]
        assert len(people_of_age) == len({facts[person, "age"][1] for person in people_of_age}) == 4
        assert all(sum(person == name for person, _ in facts) == 3 for name in names)
        first_is_right.append(right)
        greater.append(wants_greater)
        guessed.append(((ages[1] <= 57) == wants_greater) == right)
    assert mean(first_is_right) == mean(greater) == 0.5
    assert Counter(zip(first_is_right, greater, strict=True)).most_common()[-1][1] == len(rows) / 4
    assert mean(guessed) <= 0.8  # From the last passage alone.


def test_names_of_train_and_eval_are_disjoint_and_no_fact_is_asked_for_twice(world):
    titles = {passage["id"]: passage["title"] for passage in world.corpus}
    train, held_out = (
        {word for row in part for gold in row["gold_ids"] for word in titles[gold].split()}
        for part in (world.train, world.eval)
    )
    assert len(train) > 100
    assert not train & held_out
    golds = Counter(gold for row in world.train + world.eval for gold in row["gold_ids"])
    assert max(golds.values()) == 1
    assert golds.keys() <= titles.keys()
    assert len(titles) == len(world.corpus)


def test_values_recur_so_that_a_prior_does_not_help(world):
    answers = Counter(row["answers"][0] for row in world.train + world.eval)
    assert max(answers.values()) <= 300 / 20


@pytest.mark.parametrize(("kind", "depth"), [("two_hop", 8), ("three_hop", 10), ("comparison", 8)])
def test_bm25_finds_all_passages_but_never_the_right_ones_on_top(tmp_path, kind, depth):
    world = FictionalEncyclopedia.generate(0, num_train=100, num_eval=200, **{kind: 1.0})
    world.write(tmp_path)
    with PyseriniRetriever.build(tmp_path / "corpus.jsonl", tmp_path / "index") as retriever:
        found = retriever.retrieve([row["question"] for row in world.eval], k=depth)

    def all_found(k):
        tops = ({passage["id"] for passage in ranking[:k]} for ranking in found)
        return mean(top >= set(row["gold_ids"]) for row, top in zip(world.eval, tops, strict=True))

    assert all_found(depth) >= 0.95
    assert all_found(world.eval[0]["hops"]) <= 0.1


def test_the_same_arguments_give_the_same_world():
    first, again = (FictionalEncyclopedia.generate(3, 20, 20, **SHARES) for _ in range(2))
    assert first == again


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ({"two_hop": 1.5}, "two_hop is 1.5; it is a part of the questions, from 0 to 1"),
        ({"three_hop": -0.1}, "three_hop is -0.1; it is"),
        ({"comparison": float("nan")}, "comparison is nan; it is"),
        ({"two_hop": 0.75, "comparison": 0.5}, "two_hop 0.75 + comparison 0.5 is 1.25, more than all questions"),
    ],
)
def test_wrong_shares_are_one_line(shares, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}.*$"):
        FictionalEncyclopedia.generate(0, 4, 4, **shares)


def test_more_questions_than_names_are_one_line():
    with pytest.raises(ValueError, match=r"too few names for 40000 questions more; lower num_train or num_eval"):
        FictionalEncyclopedia.generate(0, 40_000, 1)
