"""Houses of the fictional encyclopedia about which one question is asked that only several passages together answer.

Every passage of a chain has others beside it that a reader of that passage alone cannot tell from it. Which link holds
is decided by the question; whose attribute answers is told by the link and by nothing else, as the others' attributes
are told in the same words with other values. In a comparison both passages name who is asked about, and neither says
which of the two it is.
"""

import random
import re
from collections.abc import Callable, Iterable, Sequence

from dro_trl.data.encyclopedia_facts import AGE, ATTRIBUTES, COMPARISONS, LINKS, Asked, Fact, Relation, Wording, state

House = tuple[list[Fact], Asked]
"""What is told of a house, and the question about it."""


def two_hop(rng: random.Random, people: Sequence[str], number: int) -> House:
    """Ask for an attribute of the person whom another person is linked to: 8 passages.

    Args:
        rng: Draws the relations, their wordings and their values.
        people: Full names; the first 6 are used.
        number: Of the question among those of its kind; nothing rests on it here.
    """
    asked, other, third, *ends = people[:6]
    link, second_link = rng.sample(LINKS["Person"], 2)
    links = _tell(rng, link, zip((asked, other, third), ends, strict=True))
    attributes = _tell_attribute(rng, [*ends, asked])
    facts = [*links, state(rng, asked, second_link, ends[1]), *attributes]
    return facts, _chain("two_hop", links[0], attributes[0])


def three_hop(rng: random.Random, people: Sequence[str], number: int) -> House:
    """Ask for an attribute of the person at the end of two links of different kinds: 9 passages.

    The passage between the first and the last has neither the name nor the attribute asked for: a search engine finds
    it if the link is told in the question's word, and the attribute in few of them.

    Args:
        rng: As in `two_hop`.
        people: Full names; the first 8 are used.
        number: As in `two_hop`.
    """
    asked, other, *rest = people[:8]
    middles, ends = rest[:3], rest[3:]
    first_link, second_link = rng.sample(LINKS["Person"], 2)
    named = [number for number, wording in enumerate(second_link.wordings) if second_link.name in wording.statement]
    first = _tell(rng, first_link, zip((asked, other), middles[:2], strict=True))
    # Who skips the first link ends with another person.
    second = _tell(rng, second_link, zip((*middles, asked), (*ends, ends[1]), strict=True), named)
    attributes = _tell_attribute(rng, ends, most_shared=2)
    return [*first, *second, *attributes], _chain("three_hop", first[0], second[0], attributes[0])


def comparison(rng: random.Random, people: Sequence[str], number: int) -> House:
    """Ask which of two people is older, or younger: 8 passages.

    The ages differ in their tens, and lie so near each other that one of them seldom tells which is greater.

    Args:
        rng: As in `two_hop`.
        people: Full names; the first 4 are used. The answer is a first name, as the two share the family's.
        number: Of four in a row, the person named first is right in two, and the older one in two.
    """
    first, second, *others = people[:4]
    first_is_right, is_greater = number % 2 == 0, number // 2 % 2 == 0
    gap = rng.randint(10, 20)
    years = [int(value) for value in AGE.values]
    low = rng.randint(years[0], years[-1] - gap)
    first_years, second_years = (low + gap, low) if first_is_right == is_greater else (low, low + gap)
    other_years = rng.sample(sorted({*years} - {low, low + gap}), len(others))
    wording = rng.randrange(len(AGE.wordings))
    ages = [
        state(rng, person, AGE, str(value), wording=wording)
        for person, value in zip((first, second, *others), (first_years, second_years, *other_years), strict=True)
    ]
    links = _tell(rng, rng.choice(LINKS["Person"]), zip((first, second), others, strict=True))
    answer = (first if first_is_right else second).split()[0]
    question = COMPARISONS[is_greater].format(x=first, y=second)
    facts = [*ages, *links, *_tell_attribute(rng, [first, second])]
    return facts, Asked(question, answer, (ages[0], ages[1]), "comparison")


KINDS: dict[str, Callable[[random.Random, Sequence[str], int], House]] = {
    "two_hop": two_hop,
    "three_hop": three_hop,
    "comparison": comparison,
}


def _tell(
    rng: random.Random, relation: Relation, pairs: Iterable[tuple[str, str]], wordings: Sequence[int] = ()
) -> list[Fact]:
    """Tell a relation of several people in the same words, one of `wordings` or any."""
    wording = rng.choice(wordings or range(len(relation.wordings)))
    return [state(rng, subject, relation, value, wording=wording) for subject, value in pairs]


def _tell_attribute(rng: random.Random, people: Sequence[str], most_shared: int | None = None) -> list[Fact]:
    """Tell an attribute of several people in the same words, `most_shared` of them the question's, a value each."""
    relation = rng.choice(ATTRIBUTES["Person"])
    values = rng.sample(relation.values, len(people))
    shared = [_num_shared(wording) for wording in relation.wordings]
    wordings = [number for number, words in enumerate(shared) if most_shared is None or words <= most_shared]
    return _tell(rng, relation, zip(people, values, strict=True), wordings)


def _num_shared(wording: Wording) -> int:
    """Count the words of a question that its statement has too, by how they begin; a word twice is two."""
    statement, question = (
        [word[:4] for word in re.findall(r"[A-Za-z]{3,}", text) if word not in ("the", "was", "with")]
        for text in wording
    )
    return sum(word in statement for word in question)


def _chain(kind: str, *facts: Fact) -> Asked:
    """Ask for the last fact's value by way of the links before it, in the last fact's wording.

    No other word of that passage is in the question, and a search engine must still find it.
    """
    *links, end = facts
    target = links[0].subject
    for link in links:
        target = link.relation.phrase.format(x=target)
    return Asked(end.relation.wordings[end.wording].question.format(x=target), end.value, facts, kind)
