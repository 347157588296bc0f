import dataclasses
import json
import time
import types
from itertools import pairwise
from string import ascii_lowercase

import pytest

from ralm_jax.data.salient import CorpusTagger, fit_tagger, no_spans, spacy_tagger

# Enough prose to see that "the", "it" and "village" are ordinary words and "Chicago" is not one.
PROSE = [
    "The village is old. It was built by the river, and the village has a mill.",
    "Chicago is a city. It is said that in Chicago it snows. The people of Chicago like it.",
    "After the war, he went to Chicago with Anna. Anna liked the city; after rain, it was fine.",
    "He wrote the book. She read it. The book was long, and he was tired of it.",
] * 2 + [
    f"there were {a}{b}x, {a}{b}y and {a}{b}z" for a in ascii_lowercase for b in ascii_lowercase
]


@pytest.fixture(scope="module")
def tagger():
    return fit_tagger(PROSE)


def found(tagger, text):
    spans = tagger(text)
    assert all(a.stop <= b.start for a, b in pairwise(spans)), "overlap"
    return [(text[span.start : span.stop], span.kind) for span in spans]


@pytest.mark.parametrize(
    "date",
    [
        "3 March 1990",
        "March 3, 1990",
        "3rd of March 1990",
        "Mar. 1990",
        "June 2",
        "1990",
        "1960s",
        "19th century",
        "324 BC",
        "1990-03-14",
        "13-Jun-2000",
        "1990年3月4日",
        "3月4日",
    ],
)
def test_dates(tagger, date):
    assert found(tagger, f"it was on {date}, and so on") == [(date, "date")]


@pytest.mark.parametrize(
    "number", ["3", "1,000,000", "3.14", "45%", "$5.1 million", "13th", "12 percent", "2.0.1"]
)
def test_numbers(tagger, number):
    assert found(tagger, f"there were {number} of it.") == [(number, "number")]


@pytest.mark.parametrize("text", ["see [12] there", "the x86 has it", "a 10km walk", "vitamin b12"])
def test_digits_that_are_no_numbers(tagger, text):
    assert found(tagger, text) == []


@pytest.mark.parametrize(
    "name",
    [
        "Anna",
        "Second World War",
        "University of Notre Dame",
        "J. R. R. Tolkien",
        "Ludwig van Beethoven",
        "Jean-Luc O’Neill",
        "U.S.",
        "NASA",
        "Łódź",
    ],
)
def test_names_within_a_sentence(tagger, name):
    assert found(tagger, f"it is said that {name} was there") == [(name, "name")]


def test_the_corpus_decides_about_the_first_word(tagger):
    assert found(tagger, "Chicago was old. The village too. After Anna he came.") == [
        ("Chicago", "name"),
        ("Anna", "name"),
    ]
    assert found(tagger, "Village life is slow.") == []
    assert found(tagger, "Zanzibar is far.") == []  # never seen: could be any word
    assert found(tagger, "NASA is near.") == [("NASA", "name")]
    assert found(tagger, "\n“The Chicago mill was Anna's.") == [
        ("Chicago", "name"),
        ("Anna", "name"),
    ]


def test_another_corpus_decides_otherwise():
    prose = ["a chicago is a kind of village, and the anna is another kind of it"] * 4 + PROSE[:1]
    assert found(fit_tagger(prose), "Chicago was old. The village too.") == []


def test_ordinary_words_are_no_names_by_themselves(tagger):
    assert found(tagger, "so The and It and I and I'm are not") == []
    assert found(tagger, "the Village Mill") == [("Village Mill", "name")]


def test_identifiers_are_terms(tagger):
    text = "call `os.path.join()` or my_function, then camelCase, PyCall_Now and __init__ e.g. [5]_"
    assert found(tagger, text) == [
        ("os.path.join()", "term"),
        ("my_function", "term"),
        ("camelCase", "term"),
        ("PyCall_Now", "term"),
        ("__init__", "term"),
    ]


def test_scripts_without_capitals_give_rare_bursty_terms():
    common = "これは説明です。人が山を見る。説明です。"
    texts = [common] * 300 + ["東大寺は奈良にある。東大寺の大仏。", "奈良の東大寺と東大寺の門。"]
    tagger = fit_tagger(texts)
    assert found(tagger, "説明によると奈良の東大寺は8世紀にある") == [
        ("東大寺", "term"),
        ("8", "number"),
    ]


def test_corpora_without_capitals_give_rare_bursty_terms():
    texts = ["the village is by the river and the mill"] * 300
    texts += ["the kinase binds; the kinase folds", "a kinase is not the other kinase"]
    tagger = fit_tagger(texts)
    assert not tagger.cased
    assert found(tagger, "the kinase in the village") == [("kinase", "term")]


def test_a_fitted_tagger_is_plain_data(tagger):
    plain = {k: sorted(v) if isinstance(v, frozenset) else v for k, v in vars(tagger).items()}
    restored = json.loads(json.dumps(plain))
    again = CorpusTagger(
        **{k: frozenset(v) if isinstance(v, list) else v for k, v in restored.items()}
    )
    assert dataclasses.astuple(again) == dataclasses.astuple(tagger)
    assert again(PROSE[1]) == tagger(PROSE[1])


def test_spacy_entities_become_spans():
    def nlp(text):
        entities = [("Anna", "PERSON"), ("1990", "DATE"), ("two", "CARDINAL")]
        return types.SimpleNamespace(
            ents=[
                types.SimpleNamespace(
                    start_char=text.index(word), end_char=text.index(word) + len(word), label_=label
                )
                for word, label in entities
            ]
        )

    tagged = found(
        spacy_tagger(nlp), "Anna had two cats in 1990".replace("two cats in 1990", "1990 two")
    )
    assert tagged == [("Anna", "name"), ("1990", "date"), ("two", "number")]


def test_edges(tagger):
    assert tagger("") == tagger(" \n") == no_spans("Anna") == []
    assert fit_tagger([])("Anna was here") == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # Thousands of blank lines, after which the text goes on in lower case.
        ("He left." + "\n" * 100_000 + "the Chicago mill", ["Chicago"]),
        ("\n \n" * 100_000 + '"it is in Chicago', ["Chicago"]),
        # A run of 400,000 capitalised words, of which all but the last two are ordinary.
        ("so " + "The " * 400_000 + "Chicago Mill", ["Chicago Mill"]),
    ],
    ids=["line_ends", "blank_lines", "capitals"],
)
def test_the_time_grows_with_the_length_and_not_with_its_square(text, expected):
    tagger = CorpusTagger(
        names=frozenset({"chicago"}),
        ordinary=frozenset({"the", "it"}),
        frequent=frozenset({"the"}),
        terms=frozenset(),
        cased=True,
    )
    begun = time.process_time()
    spans = found(tagger, text)
    fit_tagger([text])
    assert time.process_time() - begun < 8
    assert [words for words, _ in spans] == expected


def test_a_sentence_begins_after_blank_lines_and_quotes():
    tagger = fit_tagger(PROSE)
    # "Rain" is a name within a sentence, and begins each of these.
    for text in ("\n\n\nRain fell", "so.\n \n\n  Rain fell", '"a"\n\n"" \n“Rain fell”'):
        assert found(tagger, text) == []
