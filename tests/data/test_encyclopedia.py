"""The fictional encyclopedia: unambiguous, never the same twice, and hard for BM25 in the way that it should be."""

import hashlib
import json
import re
from collections import Counter
from statistics import mean

import pytest

from dro_trl.data.encyclopedia import FictionalEncyclopedia
from dro_trl.data.encyclopedia_facts import ATTRIBUTES, LINKS, THINGS
from dro_trl.retrieval.pyserini import PyseriniRetriever

SEEDS = (0, 1, 2)
RELATIONS = [relation for kinds in (ATTRIBUTES, LINKS) for relations in kinds.values() for relation in relations]
MENTION = re.compile(r", (a cousin|a neighbour|an old friend) of \w+ \w+,?")
STATEMENTS = [
    (relation, re.compile(wording.statement.format(x=r"(?P<x>\w+ \w+)", v=r"(?P<v>[\w ]+)")))
    for relation in RELATIONS
    for wording in relation.wordings
]


@pytest.fixture(scope="module", params=SEEDS)
def world(request):
    return FictionalEncyclopedia.generate(request.param, num_train=400, num_eval=300)


def told(passage):
    """Read relation and value back from a passage's sentence."""
    text = MENTION.sub("", passage["text"])
    found = []
    for relation, pattern in STATEMENTS:
        match = pattern.fullmatch(text)
        if match and match["x"] == passage["title"] and (match["v"] in relation.values or not relation.values):
            found.append((relation, match["v"]))
    assert len(found) == 1, f"{passage} tells {len(found)} facts"
    return found[0]


def readings(question, corpus_facts):
    """Answer a question by the sentences alone: every value that some reading of it leads to, with its passages."""
    answers = set()
    for (subject, relation), (value, passage_id) in corpus_facts.items():
        for wording in relation.wordings:
            if wording.question.format(x=subject) == question:
                answers.add((value, (passage_id,)))
        if not relation.phrase:
            continue
        target = relation.phrase.format(x=subject)
        for (other, attribute), (end, other_id) in corpus_facts.items():
            if other == value and any(wording.question.format(x=target) == question for wording in attribute.wordings):
                answers.add((end, (passage_id, other_id)))
    return answers


def test_every_passage_is_one_fact_and_no_entity_has_two_values_for_a_relation(world):
    facts = Counter((passage["title"], told(passage)[0].name) for passage in world.corpus)
    assert max(facts.values()) == 1
    assert len({passage["id"] for passage in world.corpus}) == len(world.corpus)


def test_every_question_has_exactly_one_answer_in_the_corpus():
    world = FictionalEncyclopedia.generate(7, 40, 40)
    facts = {}
    for passage in world.corpus:
        relation, value = told(passage)
        facts[passage["title"], relation] = (value, passage["id"])
    for row in world.train + world.eval:
        assert readings(row["question"], facts) == {(row["answers"][0], tuple(row["gold_ids"]))}


def test_sizes_and_the_share_of_questions_with_two_passages(world):
    assert (len(world.train), len(world.eval)) == (400, 300)
    for part in (world.train, world.eval):
        assert Counter(row["hops"] for row in part)[2] == 0.2 * len(part)
        assert all(len(row["gold_ids"]) == row["hops"] for row in part)


@pytest.mark.parametrize("num_questions", [1, 2, 5, 11])
def test_any_number_of_questions_can_be_had(num_questions):
    world = FictionalEncyclopedia.generate(0, num_questions, 1)
    assert len(world.train) == num_questions


def test_held_out_entities_share_no_name_with_those_trained_on(world):
    titles = {passage["id"]: passage["title"] for passage in world.corpus}
    train, held_out = (
        {word for row in part for gold in row["gold_ids"] for word in titles[gold].split()} - set(THINGS)
        for part in (world.train, world.eval)
    )
    assert len(train) > 100
    assert not train & held_out


def test_no_fact_is_asked_for_twice(world):
    golds = Counter(gold for row in world.train + world.eval for gold in row["gold_ids"])
    assert max(golds.values()) == 1


def test_values_recur_so_that_a_prior_does_not_help(world):
    """No answer is right for more than one question in twenty-five."""
    answers = Counter(row["answers"][0] for row in world.eval)
    assert max(answers.values()) <= len(world.eval) / 25


def test_the_same_seed_gives_the_same_world_and_another_seed_another():
    first, again, other = (FictionalEncyclopedia.generate(seed, 20, 20) for seed in (3, 3, 4))
    assert first == again
    names = [{passage["title"] for passage in world.corpus} - set(THINGS) for world in (first, other)]
    assert not names[0] & names[1]


@pytest.mark.parametrize(
    ("arguments", "digests"),
    [
        ((0, 160, 200), ("498cbc44cbece0f5", "f0936e94f51d66a5", "d6b05328dfd489d9")),
        ((7, 41, 19), ("ea898127b4ff8204", "d962c071c18076f7", "c90c5437ba47465d")),
    ],
)
def test_the_world_without_shares_is_that_of_the_published_figures(tmp_path, arguments, digests):
    FictionalEncyclopedia.generate(*arguments).write(tmp_path)
    files = [(tmp_path / f"{name}.jsonl").read_bytes() for name in ("corpus", "train", "eval")]
    assert tuple(hashlib.sha256(file).hexdigest()[:16] for file in files) == digests


def test_names_and_sentences_are_short(world):
    assert max(len(word) for passage in world.corpus for word in passage["title"].split()) <= 9
    assert 6 <= mean(len(passage["text"].split()) for passage in world.corpus) <= 11
    assert not [passage for passage in world.corpus if re.search(r"\ba [aeiou]|,\.|,,|  ", passage["text"])]


def test_bm25_finds_the_passages_but_seldom_first(tmp_path):
    world = FictionalEncyclopedia.generate(0, num_train=400, num_eval=300)
    world.write(tmp_path)
    rows = world.train + world.eval
    with PyseriniRetriever.build(tmp_path / "corpus.jsonl", tmp_path / "index") as retriever:
        found = retriever.retrieve([row["question"] for row in rows], k=8)
    recall = {
        k: mean(
            mean(gold in {passage["id"] for passage in ranking[:k]} for gold in row["gold_ids"])
            for row, ranking in zip(rows, found, strict=True)
        )
        for k in (2, 8)
    }
    assert 0.3 <= recall[2] <= 0.45
    assert recall[8] >= 0.98


def test_write(tmp_path):
    world = FictionalEncyclopedia.generate(0, 8, 4)
    world.write(tmp_path / "new" / "folder")
    for name, rows in (("corpus", world.corpus), ("train", world.train), ("eval", world.eval)):
        lines = (tmp_path / "new" / "folder" / f"{name}.jsonl").read_text().splitlines()
        assert [json.loads(line) for line in lines] == rows
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == [
        "corpus.jsonl",
        "eval.jsonl",
        "train.jsonl",
    ]


@pytest.mark.parametrize("numbers", [(0, 1), (1, 0)])
def test_no_questions_is_an_error(numbers):
    with pytest.raises(ValueError, match=r"num_(train|eval) is 0"):
        FictionalEncyclopedia.generate(0, *numbers)
