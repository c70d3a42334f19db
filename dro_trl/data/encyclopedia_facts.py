"""The kinds of fact the fictional encyclopedia tells, how it words them, and the values they take.

Every question names the kind of thing it asks for ("Which town ..."), because a language model that was never trained
for answering then answers in a word or two.
"""

import random
from dataclasses import dataclass
from typing import NamedTuple


class Wording(NamedTuple):
    """A statement and a question that share words; those of different wordings of one relation hardly share any."""

    statement: str
    """`{x}` is the entity, `{v}` the value."""
    question: str


class Relation(NamedTuple):
    """One kind of fact; an entity has at most one value for it."""

    name: str
    values: tuple[str, ...]
    """What the value is drawn from; empty where the value is another entity."""
    wordings: tuple[Wording, ...]
    phrase: str = ""
    """Where the value is another entity: how a question refers to it by way of `{x}`."""


@dataclass(frozen=True)
class Fact:
    """`value` is the `relation` of `subject`, told in the relation's wording number `wording`."""

    subject: str
    relation: Relation
    value: str
    wording: int
    text: str


@dataclass(frozen=True)
class Asked:
    """A question, its answer, and the facts it rests on in reading order."""

    question: str
    answer: str
    facts: tuple[Fact, ...]
    kind: str
    """`one_hop`, `two_hop`, `three_hop` or `comparison`."""


def state(
    rng: random.Random, subject: str, relation: Relation, value: str, mention: str = "", wording: int | None = None
) -> Fact:
    """Tell a fact.

    Args:
        rng: Draws the wording where none is given.
        subject: Name of the entity that it is about.
        relation: What is told of it.
        value: The relation's value.
        mention: What stands behind the subject's name, between commas.
        wording: Number of the relation's wording.
    """
    wording = rng.randrange(len(relation.wordings)) if wording is None else wording
    text = relation.wordings[wording].statement.format(x=subject + mention, v=value).replace(",.", ".")
    return Fact(subject, relation, value, wording, text)


def _relation(name: str, values: str, *wordings: tuple[str, str], phrase: str = "") -> Relation:
    return Relation(name, tuple(values.split()), tuple(Wording(*wording) for wording in wordings), phrase)


_TOWNS = (
    "Quenby Tolmir Ardwick Velso Brackna Sundrel Pelmoor Hexwick Danvar Orsund Miravo Kelbrook Zandra Fenwold Lorvik "
    "Tamsell Ruskin Galdor Nembia Yarrow Cresmont Iskander"
)
_ANIMALS = "goat parrot fox lizard hen rabbit donkey snake duck turtle mouse raven pony wolf toad badger"
_FOODS = "soup rice bread cheese pasta salmon beans pie honey pancakes stew mushrooms bacon noodles eggs"
_INSTRUMENTS = "flute drum harp violin trumpet piano guitar banjo cello lute bugle clarinet fiddle lyre horn tuba"
_SPORTS = "chess fishing boxing rowing wrestling archery fencing skating hunting tennis bowling swimming"
_LANGUAGES = "Latin Greek Danish Polish Turkish Arabic Hindi Welsh Finnish Dutch Swedish Persian Russian Korean"
_DRINKS = "tea coffee cider milk wine beer rum lemonade cocoa whisky brandy water"
_SUBJECTS = "history physics music geometry law medicine grammar chemistry astronomy biology logic geography"
_METALS = "copper iron silver gold bronze tin brass steel lead platinum"
_MATERIALS = "copper iron marble glass clay brick bronze granite steel wood concrete tin"
_DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday"

MENTIONS = ("a cousin of", "a neighbour of", "an old friend of")

THINGS = ("Arch", "Circle", "Star")
"""The last word of the names of bridges, guilds and ships."""

ATTRIBUTES: dict[str, tuple[Relation, ...]] = {
    "Person": (
        _relation(
            "birthplace",
            _TOWNS,
            ("{x} was born in the town of {v}.", "Which town was {x} born in?"),
            ("The birthplace of {x} is called {v}.", "Which town is the birthplace of {x}?"),
            ("{x} comes from {v} in the north.", "Which town does {x} come from?"),
        ),
        _relation(
            "instrument",
            _INSTRUMENTS,
            ("{x} plays the {v} at weddings.", "Which instrument does {x} play?"),
            ("{x} makes music on the {v}.", "Which instrument does {x} make music on?"),
            ("{x} performs in public on the {v}.", "Which instrument does {x} perform on?"),
        ),
        _relation(
            "food",
            _FOODS,
            ("{x} likes to eat {v} best.", "Which food does {x} like to eat best?"),
            ("The favourite dish of {x} is {v}.", "Which food is the favourite dish of {x}?"),
            ("{x} asks for {v} at every meal.", "Which food does {x} ask for at meals?"),
        ),
        _relation(
            "pet",
            _ANIMALS,
            ("{x} keeps a {v} as a pet.", "Which animal does {x} keep as a pet?"),
            ("{x} owns a tame {v}.", "Which animal does {x} own?"),
            ("{x} shares the house with a {v}.", "Which animal does {x} share the house with?"),
        ),
        _relation(
            "sport",
            _SPORTS,
            ("{x} trains hard in {v}.", "Which sport does {x} train in?"),
            ("{x} spends the evenings on {v}.", "Which sport does {x} spend the evenings on?"),
            ("The hobby of {x} is {v}.", "Which sport is the hobby of {x}?"),
        ),
        _relation(
            "language",
            _LANGUAGES,
            ("{x} speaks {v} at home.", "Which language does {x} speak?"),
            ("The mother tongue of {x} is {v}.", "Which language is the mother tongue of {x}?"),
            ("{x} grew up talking {v}.", "Which language did {x} grow up talking?"),
        ),
        _relation(
            "drink",
            _DRINKS,
            ("{x} drinks {v} all day.", "Which beverage does {x} drink?"),
            ("{x} orders {v} in every tavern.", "Which drink does {x} order in taverns?"),
            ("{x} fills every cup with {v}.", "Which drink does {x} fill cups with?"),
        ),
        _relation(
            "subject",
            _SUBJECTS,
            ("{x} teaches {v} to children.", "Which subject does {x} teach?"),
            ("{x} gives lessons in {v}.", "Which subject does {x} give lessons in?"),
            ("{x} lectures on {v} every week.", "Which subject does {x} lecture on?"),
        ),
        _relation(
            "day",
            _DAYS,
            ("{x} rests every week on {v}.", "Which day does {x} rest on?"),
            ("The free day of {x} is {v}.", "Which day is the free day of {x}?"),
            ("{x} does no work on {v}.", "Which day does {x} do no work on?"),
        ),
        _relation(
            "ring",
            _METALS,
            ("{x} wears a ring of {v}.", "Which metal is the ring that {x} wears?"),
            ("A band of {v} is on the finger of {x}.", "Which metal is the band on the finger of {x}?"),
        ),
    ),
    "Arch": (
        _relation(
            "material",
            _MATERIALS,
            ("{x} is made of {v} all through.", "Which material is {x} made of?"),
            ("The builders of {x} used {v}.", "Which material did the builders of {x} use?"),
        ),
        _relation(
            "statue",
            _ANIMALS,
            ("A statue of a {v} stands on {x}.", "Which animal is the statue on {x}?"),
            ("{x} is decorated with a {v}.", "Which animal is {x} decorated with?"),
        ),
    ),
    "Circle": (
        _relation(
            "emblem",
            _ANIMALS,
            ("The emblem of {x} is a {v}.", "Which animal is the emblem of {x}?"),
            ("The banner of {x} shows a {v}.", "Which animal does the banner of {x} show?"),
        ),
        _relation(
            "meeting",
            _DAYS,
            ("The members of {x} gather on {v}.", "Which day do the members of {x} gather on?"),
            ("{x} holds its meetings on {v}.", "Which day does {x} hold its meetings on?"),
        ),
    ),
    "Star": (
        _relation(
            "cargo",
            _METALS,
            ("The cargo of {x} is {v}.", "Which metal is the cargo of {x}?"),
            ("{x} carries {v} across the sea.", "Which metal does {x} carry?"),
        ),
        _relation(
            "port",
            _TOWNS,
            ("{x} sails from {v} every month.", "Which town does {x} sail from?"),
            ("The home port of {x} is {v}.", "Which town is the home port of {x}?"),
        ),
    ),
}

AGE = _relation(
    "age",
    " ".join(str(years) for years in range(16, 99)),
    ("{x} is {v} years old.", "How old is {x}?"),
    ("The age of {x} is {v} years.", "Which age is {x}?"),
)

COMPARISONS = {True: "Which person is older, {x} or {y}?", False: "Which person is younger, {x} or {y}?"}
"""What is asked about two ages, by whether the greater one is the answer."""

LINKS: dict[str, tuple[Relation, ...]] = {
    "Person": (
        _relation(
            "teacher",
            "",
            ("{x} was taught by {v}.", "Who taught {x}?"),
            ("The teacher of {x} was {v}.", "Who was the teacher of {x}?"),
            phrase="the teacher of {x}",
        ),
        _relation(
            "rival",
            "",
            ("The rival of {x} is {v}.", "Who is the rival of {x}?"),
            ("{x} competes against {v}.", "Who does {x} compete against?"),
            phrase="the rival of {x}",
        ),
        _relation(
            "landlord",
            "",
            ("{x} rents a room from {v}.", "Who rents a room to {x}?"),
            ("The landlord of {x} is {v}.", "Who is the landlord of {x}?"),
            phrase="the landlord of {x}",
        ),
    ),
    "Arch": (
        _relation(
            "bridge",
            "",
            ("{x} built the bridge {v}.", "Which bridge did {x} build?"),
            ("{x} is the architect of {v}.", "Which bridge is {x} the architect of?"),
            phrase="the bridge of {x}",
        ),
    ),
    "Circle": (
        _relation(
            "guild",
            "",
            ("{x} leads the guild {v}.", "Which guild does {x} lead?"),
            ("{x} is the head of {v}.", "Which guild is {x} the head of?"),
            phrase="the guild of {x}",
        ),
    ),
    "Star": (
        _relation(
            "ship",
            "",
            ("{x} commands the ship {v}.", "Which ship does {x} command?"),
            ("{x} is the captain of {v}.", "Which ship is {x} the captain of?"),
            phrase="the ship of {x}",
        ),
    ),
}
