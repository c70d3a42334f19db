"""A fictional encyclopedia: short passages about invented people and things, and questions that only reading answers.

The world is a set of houses. A house has a family name that no other house has, three people who bear it, and two
things named after it. First names recur in other houses and values recur everywhere, so a question shares words with
many passages, and only the passage with the right name *and* the right relation answers it. Questions that rest on
several passages have houses of their own (`encyclopedia_chains`) where shares of them are asked for.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle, islice, product
from pathlib import Path

from dro_trl.data.encyclopedia_chains import KINDS
from dro_trl.data.encyclopedia_facts import ATTRIBUTES, LINKS, MENTIONS, THINGS, Asked, Fact, state
from dro_trl.files.writing import write_jsonl

QUESTIONS_PER_HOUSE = 2
RELATIVES_PER_PERSON = 3
PEOPLE_PER_HOUSE = QUESTIONS_PER_HOUSE * (1 + RELATIVES_PER_PERSON)
TWO_HOP_PERCENT = 20
"""The part of the questions that rest on two passages, where no share is asked for."""
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
    """`question`, `answers` (always one), `gold_ids` (in reading order), `hops` (how many gold passages); and `kind`
    (`one_hop`, `two_hop`, `three_hop` or `comparison`) where shares were asked for."""
    eval: list[QuestionRow]
    """As `train`, about entities none of whose names occurs in `train`."""

    @classmethod
    def generate(
        cls,
        seed: int,
        num_train: int,
        num_eval: int,
        two_hop: float | None = None,
        three_hop: float | None = None,
        comparison: float | None = None,
    ) -> "FictionalEncyclopedia":
        """Invent a world; the same arguments give the same one.

        Where no share is given, a fifth of the questions rest on two passages, and the second of the two is hidden
        among none of its like. Where one is given, the shares not given are 0, what is left over has one hop, and each
        question of several passages has a house in which passages like every one of them tell other things: `two_hop`
        wants 8 candidates and 2 selected passages, `three_hop` 10 and 3, `comparison` 8 and 2.

        Args:
            seed: Seed of every random choice.
            num_train: Number of training questions, at least 1.
            num_eval: Number of held-out questions, at least 1.
            two_hop: Part of each part's questions, 0 to 1, about whom a person is linked to ("the landlord of ...").
            three_hop: Part of them about the end of two such links.
            comparison: Part of them that ask which of two people is older, or younger.

        Returns:
            The corpus that covers both parts, and the questions of each.

        Raises:
            ValueError: `num_train` or `num_eval` is smaller than 1, a share is not between 0 and 1, the shares' sum is
                greater than 1, or there are not enough names for so many questions.
        """
        for name, number in (("num_train", num_train), ("num_eval", num_eval)):
            if number < 1:
                raise ValueError(f"{name} is {number}; an encyclopedia needs at least 1 question there")
        given = {"two_hop": two_hop, "three_hop": three_hop, "comparison": comparison}
        shares = _check_shares({name: share for name, share in given.items() if share is not None})
        rng = random.Random(seed)
        names = (_names(rng, "a i o ia ana"), _names(rng, "ack ard ell enn ick ock ow uff ugg urn"))
        parts = [_part(rng, *names, number, shares) for number in (num_train, num_eval)]
        facts = [fact for part_facts, _ in parts for fact in part_facts]
        rng.shuffle(facts)
        ids = {(fact.subject, fact.relation.name): str(number) for number, fact in enumerate(facts)}
        corpus = [{"id": str(number), "title": fact.subject, "text": fact.text} for number, fact in enumerate(facts)]
        train, held_out = [[_question_row(asked, ids, bool(shares)) for asked in questions] for _, questions in parts]
        return cls(corpus=corpus, train=train, eval=held_out)

    def write(self, folder: str | Path) -> None:
        """Write `corpus.jsonl`, `train.jsonl` and `eval.jsonl`.

        Args:
            folder: Where to; made where it is missing.
        """
        for name, rows in (("corpus", self.corpus), ("train", self.train), ("eval", self.eval)):
            write_jsonl(Path(folder) / f"{name}.jsonl", rows)


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


def _check_shares(shares: dict[str, float]) -> dict[str, float]:
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise ValueError(f"{name} is {share}; it is a part of the questions, from 0 to 1")
    if (total := round(sum(shares.values()), 9)) > 1:
        parts = " + ".join(f"{name} {share}" for name, share in shares.items())
        raise ValueError(f"{parts} is {total}, more than all questions; lower one so that the sum is 1 at most")
    return shares


def _counts(num_questions: int, shares: dict[str, float]) -> dict[str, int]:
    """Return how many questions of each kind of `KINDS` are asked; rounding sums keeps whole numbers as they are."""
    counts, share, done = {}, 0.0, 0
    for kind in KINDS:
        share += shares.get(kind, 0.0)
        end = int(round(share * num_questions, 6) + 0.5)
        counts[kind], done = end - done, end
    return counts


def _part(
    rng: random.Random,
    first_names: Iterator[str],
    families: Iterator[str],
    num_questions: int,
    shares: dict[str, float],
) -> tuple[list[Fact], list[Asked]]:
    """Invent the houses of one part and ask about them; names are taken off the iterators, so parts share none."""
    counts = _counts(num_questions, shares)
    num_left = num_questions - sum(counts.values())
    num_houses = -(-num_left // QUESTIONS_PER_HOUSE) + sum(counts.values())
    num_shared = max(PEOPLE_PER_HOUSE, num_houses * 3 // 5)
    shared, own = list(islice(first_names, num_shared)), list(islice(families, num_houses))
    if len(shared) < num_shared or len(own) < num_houses:
        raise ValueError(f"there are too few names for {num_questions} questions more; lower num_train or num_eval")
    families = iter(own)
    facts: list[Fact] = []
    questions: list[Asked] = []
    for start in range(0, num_left, QUESTIONS_PER_HOUSE):
        house = _house(rng, next(families), shared)
        house_facts = _house_facts(rng, house)
        numbers = range(start, min(start + QUESTIONS_PER_HOUSE, num_left))
        # Spread evenly, because a house has only a few chains of two facts.
        hops = [1 + (not shares and _is_two_hop(number)) for number in numbers]
        facts += house_facts
        questions += _ask(rng, house, house_facts, hops)
    for kind, count in counts.items():
        for number in range(count):
            chain_facts, asked = KINDS[kind](rng, _people(rng, next(families), shared), number)
            facts += chain_facts
            questions.append(asked)
    rng.shuffle(questions)
    return facts, questions


def _is_two_hop(number: int) -> bool:
    return (number + 1) * TWO_HOP_PERCENT // 100 > number * TWO_HOP_PERCENT // 100


def _people(rng: random.Random, family: str, first_names: list[str]) -> list[str]:
    return [f"{first} {family}" for first in rng.sample(first_names, PEOPLE_PER_HOUSE)]


def _house(rng: random.Random, family: str, first_names: list[str]) -> _House:
    people = _people(rng, family, first_names)
    kind = rng.choice(THINGS)
    return _House(people=people, things={f"{family} {kind}": kind})


def _house_facts(rng: random.Random, house: _House) -> list[Fact]:
    """State the facts of a house: for each person who is asked about, the same trait of relatives who name them.

    A relative's passage names the person asked about, and its wording is closer to the question than that of the
    passage that answers it, so that a search engine which counts words prefers the relatives.
    """
    facts: list[Fact] = []
    asked, relatives = house.people[:QUESTIONS_PER_HOUSE], iter(house.people[QUESTIONS_PER_HOUSE:])
    for person, relation in zip(asked, rng.sample(ATTRIBUTES["Person"], len(asked)), strict=True):
        fact = state(rng, person, relation, rng.choice(relation.values))
        facts.append(fact)
        others = [number for number in range(len(relation.wordings)) if number != fact.wording]
        for wording, relative in zip(cycle(others), islice(relatives, RELATIVES_PER_PERSON), strict=False):
            mention = f", {rng.choice(MENTIONS)} {person},"
            facts.append(state(rng, relative, relation, rng.choice(relation.values), mention, wording))
    tenant, landlord, owner = rng.sample(house.people, 3)
    facts.append(state(rng, tenant, rng.choice(LINKS["Person"]), landlord))
    for thing, kind in house.things.items():
        facts.append(state(rng, owner, rng.choice(LINKS[kind]), thing))
        facts += [state(rng, thing, relation, rng.choice(relation.values)) for relation in ATTRIBUTES[kind]]
    return facts


def _ask(rng: random.Random, house: _House, facts: list[Fact], hops: list[int]) -> list[Asked]:
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


def _ask_one_hop(rng: random.Random, house: _House, unused: list[Fact]) -> Asked:
    asked = house.people[:QUESTIONS_PER_HOUSE]
    fact = next(fact for fact in unused if fact.subject in asked and not fact.relation.phrase)
    wordings = list(range(len(fact.relation.wordings)))
    if rng.random() >= SHARED_WORDING_SHARE:
        wordings.remove(fact.wording)
    question = fact.relation.wordings[rng.choice(wordings)].question.format(x=fact.subject)
    return Asked(question, fact.value, (fact,), "one_hop")


def _ask_two_hop(unused: list[Fact]) -> Asked:
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
    return Asked(question, attribute.value, (link, attribute), "two_hop")


def _question_row(asked: Asked, ids: dict[tuple[str, str], str], with_kind: bool) -> QuestionRow:
    row: QuestionRow = {
        "question": asked.question,
        "answers": [asked.answer],
        "gold_ids": [ids[fact.subject, fact.relation.name] for fact in asked.facts],
        "hops": len(asked.facts),
    }
    return row | {"kind": asked.kind} if with_kind else row
