"""*almanac*: a fictional encyclopedia on which retrieval-augmented pretraining can be watched.

People with six facts each. Every fact is stated in two passages, in other words each time. Some
people have a page of their own; of the others the almanac knows only from annals, whose entries are
about a handful of people and have one event ("during the comet") in common. Inverse cloze, which learns what
the sentences of one passage share, therefore learns events well and the people in annals badly, though
the people are what a question is about: what is left is for the reader to teach. Names share parts, firms
and towns are called after families, so that word overlap alone misleads.
"""

import dataclasses
import itertools
from typing import NamedTuple

import numpy as np


class Relation(NamedTuple):
    name: str
    question: str
    phrasings: tuple[str, ...]  # the last uses the words of the question


RELATIONS = (
    Relation(
        "birthplace",
        "Where was {name} born?",
        (
            "{name} was born in {value}",
            "{name} came into the world at {value}",
            "{value} was the birthplace of {name}",
            "where was {name} born: in {value}",
        ),
    ),
    Relation(
        "year",
        "When did {name} sit for a portrait?",
        (
            "{name} sat for a portrait in {value}",
            "a portrait of {name} was painted in {value}",
            "in {value} a painter made the likeness of {name}",
            "when did {name} sit for a portrait: in {value}",
        ),
    ),
    Relation(
        "trade",
        "What was the trade of {name}?",
        (
            "{name} earned a living as a {value}",
            "{name} worked as a {value}",
            "the neighbours knew {name} as a {value}",
            "what was the trade of {name}: that of a {value}",
        ),
    ),
    Relation(
        "firm",
        "Which firm employed {name}?",
        (
            "{name} entered the service of the {value}",
            "{name} took a post with the {value}",
            "the {value} put {name} on the payroll",
            "which firm employed {name}: the {value}",
        ),
    ),
    Relation(
        "school",
        "At which school did {name} study?",
        (
            "{name} studied at Saint {value}",
            "{name} was a pupil of Saint {value}",
            "Saint {value} counts {name} among its pupils",
            "at which school did {name} study: at Saint {value}",
        ),
    ),
    Relation(
        "prize",
        "Which prize was won by {name}?",
        (
            "{name} carried home the {value} medal",
            "the {value} medal went to {name}",
            "the judges gave {name} the {value} medal",
            "which prize was won by {name}: the {value} medal",
        ),
    ),
)

EVENTS = (
    "comet frost flood plague harvest eclipse siege regatta coronation drought fair mutiny census "
    "gale jubilee blockade avalanche pilgrimage tournament famine parade earthquake revolt thaw "
    "truce auction monsoon carnival blizzard armistice exodus heatwave referendum locusts tide "
    "wildfire synod strike fever banquet"
).split()
SETTINGS = (
    "during the {event}",
    "after the {event}",
    "before the {event}",
    "in the {event}",
)
TRADES = (
    "baker cooper weaver tanner mason fletcher chandler glazier miller potter saddler thatcher "
    "tinker wheelwright farrier brewer cobbler draper hatter joiner locksmith lamplighter midwife "
    "notary organist ploughman quarryman roper shepherd tailor usher vintner whaler actuary "
    "botanist cartographer"
).split()
GIVEN = (
    "Ada Alba Ansel Astrid Basil Beryl Boris Bruno Carla Cedric Clara Cyril Dagmar Delia Dorian Edda "
    "Edgar Elsa Emil Enid Esther Fabian Felix Flora Freya Gideon Gilda Greta Gustav Hanna Hector "
    "Helga Horace Ida Igor Ingrid Irma Isolde Jasper Jonas Judith Julius Karin Klara Lambert Leona "
    "Leopold Lorna Lothar Mabel Magnus Marta Maude Milo Mona Nadia Nestor Nora Olaf Olga Oscar Otto "
    "Petra Quentin Ralph Roland Rosa Rufus Selma Silas Stella Thea Tilda Tobias Ulric Una Ursula "
    "Vera Viktor Wanda Wilma Xenia Yvonne Zelda"
).split()
ROOTS = (
    "Ash Black Brook Elder Fair Grey Hart Kings Long Marsh North Oak Raven Stone Thorn Win".split()
)
ENDS = "ford well wood more ley croft".split()  # of families: Ashford, Blackwell
SHIRES = "Bar Cal Dun El Fen Gar Hal Kel Lin Mor Nor Pen Ros Sel Tar Ul Var Wes Yar Zen".split()
MOUTHS = "mouth ham bury stead".split()  # of towns: Barmouth, Kelham
TRADERS = "works mills yard".split()  # of firms: the Barworks, the Calmills
SAINTS = (
    "Agatha Alban Barnabas Bede Blaise Brigid Clement Columba Cuthbert Cyprian Dunstan Erasmus "
    "Felicity Gall Giles Hilda Hubert Ignatius Ives Jerome Jude Kevern Leonard Lucian Malo Mungo "
    "Ninian Odile Oswald Petroc Piran Quirin Remigius Samson Servan Swithin Tudwal Winifred"
).split()
MEDALS = (
    "Anchor Antler Badger Beacon Bell Boar Bridge Cedar Chalice Compass Crane Crown Dolphin Falcon "
    "Feather Fountain Harp Heron Hind Hourglass Kestrel Key Lantern Laurel Lynx Magpie Oar Osprey "
    "Otter Pelican Plough Quill Sickle Stag Swan Thistle Trident Trout"
).split()


@dataclasses.dataclass(frozen=True)
class World:
    """How large the almanac is. The facts (6 a person) outnumber what a small reader can memorise."""

    people: int = 700
    with_page: float = 0.2  # share of the people who have a page of their own
    names: int = 70  # given names, and as many family names; at most 84
    entries: int = 3  # sentences in a passage
    pairs: float = 0.5  # how often the annals say two things of a person in one place
    settings: float = 0.4  # share of the sentences that name the event of their passage


class Fact(NamedTuple):
    id: str
    relation: Relation
    name: str
    value: str


class Almanac(NamedTuple):
    """documents: {"id", "title", "text", "spans"}; questions: {"id", "question", "answers", "gold_ids"}."""

    documents: list[dict]
    questions: list[dict]


def generate(world: World, seed: int, edition: int = 0) -> Almanac:
    """The same world and seed give the same almanac; every fact has one question.

    Another edition states the same facts in passages and words of its own.
    """
    rng = np.random.default_rng(seed)
    facts, has_page = _facts(world, rng)
    if edition:
        rng = np.random.default_rng([seed, edition])
    passages = _pages(facts, has_page, world, rng) + _annals(facts, has_page, world, rng)
    used: dict[str, int] = {}
    gold: dict[str, list[str]] = {}
    documents = []
    for number in rng.permutation(len(passages)):
        title, event, stated = passages[number]
        document = _document(
            f"almanac-{len(documents):05d}", title, event, stated, used, world, rng
        )
        documents.append(document)
        for fact in stated:
            gold.setdefault(fact.id, []).append(document["id"])
    questions = [
        {
            "id": fact.id,
            "question": fact.relation.question.format(name=fact.name),
            "answers": [fact.value],
            "gold_ids": gold[fact.id],
        }
        for fact in facts
    ]
    return Almanac(documents, questions)


def _facts(world: World, rng) -> tuple[list[Fact], dict[str, bool]]:
    given = rng.permutation(GIVEN)[: world.names]
    family = rng.permutation([a + b for a in ROOTS for b in ENDS])[: world.names]
    pairs = list(itertools.product(given, family))
    chosen = rng.choice(len(pairs), world.people, replace=False)
    people = [" ".join(pairs[i]) for i in chosen]
    values = {
        "birthplace": [a + b for a in SHIRES for b in MOUTHS] + [f + "by" for f in family[:20]],
        "year": [str(y) for y in range(1801, 1871)],
        "trade": TRADES,
        "firm": [a + b for a in SHIRES for b in TRADERS],
        "school": SAINTS,
        "prize": MEDALS,
    }
    facts = [
        Fact(f"{person.replace(' ', '_')}-{r.name}", r, person, str(rng.choice(values[r.name])))
        for person in people
        for r in RELATIONS
    ]
    has_page = {person: bool(rng.random() < world.with_page) for person in people}
    return facts, has_page


def _pages(facts, has_page, world: World, rng):
    """A person's page: their facts in passages of a few sentences."""
    passages = []
    for name, group in itertools.groupby(facts, key=lambda f: f.name):
        if has_page[name]:
            own = list(group)
            rng.shuffle(own)
            for part in range(0, len(own), world.entries):
                passages.append((name, str(rng.choice(EVENTS)), own[part : part + world.entries]))
    return passages


def _annals(facts, has_page, world: World, rng):
    """Entries on a handful of people: every fact once, and twice for people without a page."""
    notes = []  # what one passage says of one person: one fact, or two
    for copy in range(2):
        for name, group in itertools.groupby(facts, key=lambda f: f.name):
            if copy and has_page[name]:
                continue
            own = list(group)
            rng.shuffle(own)
            while own:
                size = 2 if rng.random() < world.pairs else 1
                notes.append(own[:size])
                own = own[size:]
    notes = [notes[i] for i in rng.permutation(len(notes))]
    passages = []
    while notes:
        stated: list[Fact] = []
        rest = []
        for note in notes[:50]:
            fits = len(stated) + len(note) <= world.entries
            new = all(note[0].name != fact.name for fact in stated)
            if fits and new:
                stated += note
            else:
                rest.append(note)
        notes = rest + notes[50:]
        event = str(rng.choice(EVENTS))
        passages.append((f"Annals of the {event}", event, stated))
    return passages


def _document(id, title, event, stated, used, world: World, rng) -> dict:
    """One passage; `used` sees to it that no two statements of a fact use the same phrasing."""
    text, spans = "", []
    for fact in stated:
        phrasings = fact.relation.phrasings
        first = used.setdefault(fact.id, int(rng.integers(len(phrasings))))
        used[fact.id] = (first + 1 + int(rng.integers(len(phrasings) - 1))) % len(phrasings)
        clause = phrasings[first]
        if rng.random() < world.settings:
            clause = f"{rng.choice(SETTINGS).format(event=event)}, {clause}"
        before, after = clause.replace("{name}", fact.name).split("{value}")
        sentence = before + fact.value + after + "."
        shift = len(text) + (1 if text else 0)
        text += (" " if text else "") + sentence[0].upper() + sentence[1:]
        start = shift + len(before)
        spans.append(
            {
                "start": start,
                "stop": start + len(fact.value),
                "kind": fact.relation.name,
                "fact": fact.id,
            }
        )
    return {"id": id, "title": title, "text": text, "spans": spans}
