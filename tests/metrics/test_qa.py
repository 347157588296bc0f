import doctest

import pytest

from ralm_jax.metrics import qa
from ralm_jax.metrics.qa import exact_match, f1, has_answer, has_match, normalise, regex_match


def test_the_examples_of_the_docstrings():
    assert doctest.testmod(qa).failed == 0


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("The Beatles", "beatles"),
        ("theatre an Athens", "theatre athens"),  # articles are whole words
        ("A.B.C.", "abc"),
        ("rock-and-roll!", "rockandroll"),
        ("an", "an"),
        ("The The", "the the"),
        ("A.", "a"),
        ("the !", "the"),
        ("!!!", "!!!"),
        (" \u200b", ""),
        ("Nor\xadford", "norford"),
        ("\ufeffGlass\u200bwork", "glasswork"),
        ("É", "e\u0301"),  # split, not dropped
        ("  two\t\nspaces ", "two spaces"),
    ],
)
def test_normalisation(text, wanted):
    assert normalise(text) == wanted
    assert normalise(normalise(text)) == normalise(text)


def test_exact_match_takes_any_answer():
    assert exact_match("the Nile.", ["Amazon", "Nile"])
    assert exact_match("Beyonc\u00e9", ["Beyonce\u0301"])
    assert not exact_match("Nile river", ["Nile"])
    assert not exact_match("Nile", [])


def test_f1_by_hand():
    assert f1("the blue Nile river", ["Nile"]) == pytest.approx(2 * (1 / 3) * 1 / (1 / 3 + 1))
    assert f1("Nile Nile", ["Nile"]) == pytest.approx(2 / 3)  # a word counts as often as it occurs
    assert f1("Nile Nile", ["Nile Nile river"]) == pytest.approx(4 / 5)
    assert f1("Nile", ["Amazon", "Nile"]) == 1
    assert f1("Nile", ["Amazon"]) == 0
    assert f1("Nile", []) == 0


@pytest.mark.parametrize("answer", ["A", "The The", "!!!", "an", "Nile", "\u200b"])
@pytest.mark.parametrize("nothing", ["", " ", "\u200b", "\0"])
def test_nothing_said_is_never_right(answer, nothing):
    assert not exact_match(nothing, [answer]) and f1(nothing, [answer]) == 0
    assert not regex_match(nothing, [".*", "(x)?"])


def test_answers_of_articles_and_marks_alone_are_compared_as_they_are():
    for answer, same, other in (
        ("A", ["a", "A", "A.", "'a'"], ["the", "an", "B", "."]),
        ("The The", ["the the", "The The!"], ["the", "A", "the who"]),
        ("!!!", ["!!!", " !!! "], ["!", "?", "the", "!!! band"]),
    ):
        for said in same:
            assert exact_match(said, [answer]) and f1(said, [answer]) == 1, (said, answer)
        for said in other:
            assert not exact_match(said, [answer]), (said, answer)
    # Where something is left, nothing has changed.
    assert exact_match("The Beatles!", ["beatles"]) and not exact_match("the", ["Beatles"])


def test_what_nobody_sees_makes_no_difference():
    text = "Glass\u200bwork of Nor\xadford was founded by Ada\u200b Quill\0 and Rene\u0301."
    for answer in ("Glasswork of Norford", "Glasswork of Nor\xadford", "Ada Quill", "Ren\u00e9"):
        assert has_answer(text, [answer])
        assert has_match(text, [answer.replace(" ", r"\s")])
    read = text[: text.index(" was")]
    assert exact_match(read, ["Glasswork of Norford"]) and f1(read, ["Norford"]) == 0.5
    assert regex_match(read, [r"glasswork\sof"])
    assert not has_answer("Nor ford", ["Norford"])


@pytest.mark.parametrize(
    ("text", "answer", "found"),
    [
        ("He often came.", "ten", False),
        ("It has ten rooms.", "Ten", True),
        ("Vera's house", "vera", True),
        ("The war of 1914–1918 ended", "1918", True),
        ("by J.K. Rowling", "J. K. Rowling", True),
        ("blue and white", "blue white", False),
        ("Beyonce\u0301 sang", "Beyonc\u00e9", True),
        ("大阪は東京より小さい", "東京", True),
        ("大阪は東京より小さい", "東阪", False),
        ("が", "か", False),
        ("anything", "", False),
        ("", "", False),
        ("anything", " ", False),
        ("ten", "ten", True),
    ],
)
def test_a_passage_has_an_answer_word_by_word(text, answer, found):
    assert has_answer(text, ["absent", answer]) == found


def test_no_answers_are_held_nowhere():
    assert not has_answer("anything", [])


def test_patterns():
    assert regex_match("1969 July", [r"19(68|69)"])
    assert regex_match("JULY", ["july"])
    assert not regex_match("in 1969", ["1969"])  # anchored at the start
    assert has_match("in 1969", ["1969"])
    assert not has_match("in 1969", ["1970", "(broken"])
    # As for training: see pattern_spans.
    assert not has_match("in 1969", ["(1970)?"]) and has_match("in 1969", ["(1969)?"])
