"""A fictional encyclopedia: short passages about invented people and things, and questions that only reading answers.

The world is a set of houses. A house has a family name that no other house has, three people who bear it, and two
things named after it. First names recur in other houses and values recur everywhere, so a question shares words with
many passages, and only the passage with the right name *and* the right relation answers it.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle, islice, product
from pathlib import Path

from dro_trl.data.encyclopedia_facts import ATTRIBUTES, LINKS, MENTIONS, THINGS, Relation
from dro_trl.files.writing import write_jsonl

QUESTIONS_PER_HOUSE = 2
RELATIVES_PER_PERSON = 3
PEOPLE_PER_HOUSE = QUESTIONS_PER_HOUSE * (1 + RELATIVES_PER_PERSON)
TWO_HOP_PERCENT = 20
"""The part of the questions that rest on two passages."""
SHARED_WORDING_SHARE = 0.15
"""The part of the one-passage questions that use the passage's own wording."""

PassageRow = dict[str, str]
QuestionRow = dict[str, str | int | list[str]]


@dataclass(frozen=True)
class FictionalEncyclopedia:
    """A corpus about an invented world, with questions for training and for evaluation."""

    corpus: list[PassageRow]
    """`id`, `title` (the entity's name) and `text` (one sentence)."""
    train: list[QuestionRow]
    """`question`, `answers` (always one), `gold_ids` (in reading order), `hops` (1 or 2: the gold passages)."""
    eval: list[QuestionRow]
    """As `train`, about entities none of whose names occurs in `train`."""

    @classmethod
    def generate(cls, seed: int, num_train: int, num_eval: int) -> "FictionalEncyclopedia":
        """Invent a world; the same arguments give the same one.

        Args:
            seed: Seed of every random choice.
            num_train: Number of training questions, at least 1.
            num_eval: Number of held-out questions, at least 1.

        Returns:
            The corpus that covers both parts, and the questions of each.

        Raises:
            ValueError: `num_train` or `num_eval` is smaller than 1.
        """
        for name, number in (("num_train", num_train), ("num_eval", num_eval)):
            if number < 1:
                raise ValueError(f"{name} is {number}; an encyclopedia needs at least 1 question there")
        rng = random.Random(seed)
        names = (_names(rng, "a i o ia ana"), _names(rng, "ack ard ell enn ick ock ow uff ugg urn"))
        parts = [_part(rng, *names, number) for number in (num_train, num_eval)]
        facts = [fact for part_facts, _ in parts for fact in part_facts]
        rng.shuffle(facts)
        ids = {(fact.subject, fact.relation.name): str(number) for number, fact in enumerate(facts)}
        corpus = [{"id": str(number), "title": fact.subject, "text": fact.text} for number, fact in enumerate(facts)]
        train, held_out = [[_question_row(asked, ids) for asked in questions] for _, questions in parts]
        return cls(corpus=corpus, train=train, eval=held_out)

    def write(self, folder: str | Path) -> None:
        """Write `corpus.jsonl`, `train.jsonl` and `eval.jsonl`.

        Args:
            folder: Where to; made where it is missing.
        """
        for name, rows in (("corpus", self.corpus), ("train", self.train), ("eval", self.eval)):
            write_jsonl(Path(folder) / f"{name}.jsonl", rows)


@dataclass(frozen=True)
class _Fact:
    """`value` is the `relation` of `subject`, told in the relation's wording number `wording`."""

    subject: str
    relation: Relation
    value: str
    wording: int
    text: str


@dataclass(frozen=True)
class _Asked:
    """A question, its answer, and the facts it rests on in reading order."""

    question: str
    answer: str
    facts: tuple[_Fact, ...]


@dataclass(frozen=True)
class _House:
    """Its people by full name, and its things as name -> kind."""

    people: list[str]
    things: dict[str, str]


def _names(rng: random.Random, endings: str) -> Iterator[str]:
    """Yield invented words of two syllables, each once; no ending is one that a stemmer would cut off."""
    onsets = "B Br D Dr F Fr G Gr H J K L M N P Pr Qu R S St T Tr V W Z".split()
    middles = "l ld lm lv m mb n nd nn r rd rl rm rn rr rv sk ss st tt v z".split()
    syllables = product(onsets, "aeio", middles, endings.split())
    words = ["".join(parts) for parts in syllables]
    return iter(rng.sample(words, len(words)))


def _part(
    rng: random.Random, first_names: Iterator[str], families: Iterator[str], num_questions: int
) -> tuple[list[_Fact], list[_Asked]]:
    """Invent the houses of one part and ask about them; names are taken off the iterators, so parts share none."""
    num_houses = -(-num_questions // QUESTIONS_PER_HOUSE)
    shared = list(islice(first_names, max(PEOPLE_PER_HOUSE, num_houses * 3 // 5)))
    facts: list[_Fact] = []
    questions: list[_Asked] = []
    for _ in range(num_houses):
        house = _house(rng, next(families), shared)
        house_facts = _house_facts(rng, house)
        start = len(questions)
        # Spread evenly, because a house has only a few chains of two facts.
        hops = [1 + _is_two_hop(number) for number in range(start, min(start + QUESTIONS_PER_HOUSE, num_questions))]
        facts += house_facts
        questions += _ask(rng, house, house_facts, hops)
    rng.shuffle(questions)
    return facts, questions


def _is_two_hop(number: int) -> bool:
    return (number + 1) * TWO_HOP_PERCENT // 100 > number * TWO_HOP_PERCENT // 100


def _house(rng: random.Random, family: str, first_names: list[str]) -> _House:
    people = [f"{first} {family}" for first in rng.sample(first_names, PEOPLE_PER_HOUSE)]
    kind = rng.choice(THINGS)
    return _House(people=people, things={f"{family} {kind}": kind})


def _house_facts(rng: random.Random, house: _House) -> list[_Fact]:
    """State the facts of a house: for each person who is asked about, the same trait of relatives who name them.

    A relative's passage names the person asked about, and its wording is closer to the question than that of the
    passage that answers it, so that a search engine which counts words prefers the relatives.
    """
    facts: list[_Fact] = []
    asked, relatives = house.people[:QUESTIONS_PER_HOUSE], iter(house.people[QUESTIONS_PER_HOUSE:])
    for person, relation in zip(asked, rng.sample(ATTRIBUTES["Person"], len(asked)), strict=True):
        fact = _state(rng, person, relation, rng.choice(relation.values))
        facts.append(fact)
        others = [number for number in range(len(relation.wordings)) if number != fact.wording]
        for wording, relative in zip(cycle(others), islice(relatives, RELATIVES_PER_PERSON), strict=False):
            mention = f", {rng.choice(MENTIONS)} {person},"
            facts.append(_state(rng, relative, relation, rng.choice(relation.values), mention, wording))
    tenant, landlord, owner = rng.sample(house.people, 3)
    facts.append(_state(rng, tenant, rng.choice(LINKS["Person"]), landlord))
    for thing, kind in house.things.items():
        facts.append(_state(rng, owner, rng.choice(LINKS[kind]), thing))
        facts += [_state(rng, thing, relation, rng.choice(relation.values)) for relation in ATTRIBUTES[kind]]
    return facts


def _state(
    rng: random.Random, subject: str, relation: Relation, value: str, mention: str = "", wording: int | None = None
) -> _Fact:
    wording = rng.randrange(len(relation.wordings)) if wording is None else wording
    text = relation.wordings[wording].statement.format(x=subject + mention, v=value).replace(",.", ".")
    return _Fact(subject, relation, value, wording, text)


def _ask(rng: random.Random, house: _House, facts: list[_Fact], hops: list[int]) -> list[_Asked]:
    """Ask one question per number of `hops`; no fact serves two of them.

    One-hop questions are about people only: of a thing, too little is told to hide one fact among others.
    """
    unused = rng.sample(facts, len(facts))
    asked = []
    for number in sorted(hops, reverse=True):
        question = _ask_two_hop(unused) if number == 2 else _ask_one_hop(rng, house, unused)
        unused = [fact for fact in unused if fact not in question.facts]
        asked.append(question)
    return asked


def _ask_one_hop(rng: random.Random, house: _House, unused: list[_Fact]) -> _Asked:
    asked = house.people[:QUESTIONS_PER_HOUSE]
    fact = next(fact for fact in unused if fact.subject in asked and not fact.relation.phrase)
    wordings = list(range(len(fact.relation.wordings)))
    if rng.random() >= SHARED_WORDING_SHARE:
        wordings.remove(fact.wording)
    question = fact.relation.wordings[rng.choice(wordings)].question.format(x=fact.subject)
    return _Asked(question, fact.value, (fact,))


def _ask_two_hop(unused: list[_Fact]) -> _Asked:
    """Ask for an attribute of the entity that another entity is linked to.

    The question uses the second passage's wording: that passage does not name the entity asked about, and a search
    engine must still find it.
    """
    link, attribute = next(
        (link, attribute)
        for link in unused
        for attribute in unused
        if link.relation.phrase and link.value == attribute.subject and not attribute.relation.phrase
    )
    target = link.relation.phrase.format(x=link.subject)
    question = attribute.relation.wordings[attribute.wording].question.format(x=target)
    return _Asked(question, attribute.value, (link, attribute))


def _question_row(asked: _Asked, ids: dict[tuple[str, str], str]) -> QuestionRow:
    return {
        "question": asked.question,
        "answers": [asked.answer],
        "gold_ids": [ids[fact.subject, fact.relation.name] for fact in asked.facts],
        "hops": len(asked.facts),
    }
