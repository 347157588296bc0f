import itertools
import re
from collections import Counter

import pytest

from ralm_jax.sources import almanac

WORLD = almanac.World(people=60, names=12, with_page=0.5)


@pytest.fixture(scope="module")
def world():
    return almanac.generate(WORLD, seed=3)


def statements(made):
    """Fact -> [(document, sentence, value as the span says)], sentences as `. ` ends them."""
    found: dict[str, list] = {}
    for document in made.documents:
        sentences = [m for m in re.finditer(r"[^.]+\.", document["text"])]
        assert len(sentences) == len(document["spans"]) <= WORLD.entries
        for sentence, span in zip(sentences, document["spans"], strict=True):
            assert sentence.start() <= span["start"] < span["stop"] < sentence.end()
            value = document["text"][span["start"] : span["stop"]]
            found.setdefault(span["fact"], []).append((document, sentence.group().strip(), value))
    return found


def test_a_seed_makes_one_world(world):
    assert almanac.generate(WORLD, seed=3) == world
    other = almanac.generate(WORLD, seed=4)
    assert {q["question"] for q in other.questions} != {q["question"] for q in world.questions}


def test_every_fact_is_stated_in_two_passages_in_two_phrasings(world):
    found = statements(world)
    relations = {relation.name: relation for relation in almanac.RELATIONS}
    assert len(found) == len(world.questions) == WORLD.people * len(relations)
    for fact, stated in found.items():
        person, _, relation = fact.rpartition("-")
        name, (_, _, value) = person.replace("_", " "), stated[0]
        assert len(stated) == 2 and len({document["id"] for document, _, _ in stated}) == 2
        phrasings = set()
        for _, sentence, said in stated:
            assert said == value
            plain = [p.format(name=name, value=value) for p in relations[relation].phrasings]
            fits = [i for i, p in enumerate(plain) if sentence[:-1].lower().endswith(p.lower())]
            assert len(fits) == 1, sentence
            phrasings.add(fits[0])
        assert len(phrasings) == 2


def test_questions_name_the_value_and_the_passages_that_state_it(world):
    found = statements(world)
    texts = {document["id"]: document for document in world.documents}
    assert len(texts) == len(world.documents)
    for question in world.questions:
        stated = found[question["id"]]
        assert question["answers"] == [stated[0][2]]
        assert sorted(question["gold_ids"]) == sorted(d["id"] for d, _, _ in stated)
        assert question["id"].rpartition("-")[0].replace("_", " ") in question["question"]


def test_names_share_their_parts(world):
    people = {question["id"].rpartition("-")[0] for question in world.questions}
    assert len(people) == WORLD.people
    for part in zip(*(person.split("_") for person in people), strict=True):
        assert max(Counter(part).values()) > 1
    titles = Counter(document["title"].startswith("Annals of the") for document in world.documents)
    assert min(titles.values()) > 5


def test_all_phrasings_and_settings_occur_in_pages_and_in_annals(world):
    """Else inverse cloze learns style: which phrasing belongs to which kind of passage."""
    seen = {True: set(), False: set()}
    for (document, sentence, value), relation in itertools.product(
        itertools.chain.from_iterable(statements(world).values()), almanac.RELATIONS
    ):
        for number, phrasing in enumerate(relation.phrasings):
            form = (
                re.escape(phrasing)
                .replace(r"\{name\}", r"\w+ \w+")
                .replace(r"\{value\}", re.escape(value))
            )
            if re.search(form + r"\.$", sentence, re.IGNORECASE):
                annals = document["title"].startswith("Annals")
                seen[annals].add((relation.name, number))
    everything = {(r.name, n) for r in almanac.RELATIONS for n in range(len(r.phrasings))}
    assert seen[True] == seen[False] == everything


def test_preparing_loses_no_fact(tiny):
    facts = len(tiny.almanac.questions)
    assert len(tiny.corpus.spans) == 2 * facts == len(tiny.corpus.sentences)
    assert set(Counter(tiny.corpus.span_groups.tolist()).values()) == {2}
    assert tiny.corpus.size == len(tiny.almanac.documents)
