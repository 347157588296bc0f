import random
import time

import numpy as np
import pytest

from ralm_jax.data.passages import content_id, cut_long, pack, split_sentences


def sentences(text):
    return [text[a:b] for a, b in split_sentences(text)]


@pytest.mark.parametrize(
    "expected",
    [
        ["He left.", "She stayed!", "Did they?", "No..."],
        ["Dr. J. R. Smith met Mrs. Jones at 3.14 p.m. near St. Paul.", "It was cold."],
        ["The U.S. Army came.", "It used e.g. tanks, i.e. armour, etc. and won."],
        ["See Fig. 3 and pp. 4-5.", "That was in 1990.", "Then came version 3.11."],
        ['"Stop!" he said.', "(It worked.)", "“Really?”", "Yes."],
        ["It is foo.bar and www.example.com today.", "End."],
        ["An ellipsis... goes on in lower case.", "Then stops."],
        ["1. The first item of a list.", "2. The second one."],
    ],
)
def test_sentences_end_where_a_reader_would_end_them(expected):
    assert sentences(" ".join(expected)) == expected


def test_sentences_of_text_without_spaces():
    text = "本項では説明する。東大寺は「奈良の大仏。」として知られる!次の文？終わり"
    assert sentences(text) == [
        "本項では説明する。",
        "東大寺は「奈良の大仏。」",
        "として知られる!次の文？",
        "終わり",
    ]


def test_blank_lines_end_sentences_and_line_ends_do_not():
    assert sentences("A title\n\nwrapped\ntext. \n \nNext") == ["A title", "wrapped\ntext.", "Next"]


def test_sentences_cover_everything_but_blanks():
    rng = random.Random(0)
    for _ in range(500):
        text = "".join(rng.choices("aB1.!?。\n \t\"')(é", k=rng.randrange(60)))
        stop = 0
        for a, b in split_sentences(text):
            assert not text[stop:a].strip() and text[a:b] == text[a:b].strip() != ""
            stop = b
        assert not text[stop:].strip()


@pytest.mark.parametrize(
    "text", ["Rents" + "." * 200_000 + "12", "?!" * 100_000 + "no", "…" * 200_000]
)
def test_the_time_grows_with_the_length_of_a_leader_and_not_with_its_square(text):
    begun = time.process_time()
    assert split_sentences(text) == [(0, len(text))]
    assert time.process_time() - begun < 5


def test_long_sentences_are_cut_where_words_begin():
    continuation = np.array([0, 1, 1, 0, 0, 1, 0, 1, 1, 1, 1, 0], bool)
    bounds, source = cut_long(np.array([[0, 3], [3, 12]]), np.array([4, 4]), continuation)
    # From 6 on there is one word of five pieces, which has to be cut somewhere.
    assert bounds.tolist() == [[0, 3], [3, 6], [6, 9], [9, 12]]
    assert source.tolist() == [0, 1, 1, 1]


def test_long_sentences_are_not_cut_within_a_word():
    continuation = np.array([0, 0, 0, 0, 1, 1, 0, 0], bool)
    bounds, _ = cut_long(np.array([[0, 8]]), np.array([5]), continuation)
    assert bounds.tolist() == [[0, 3], [3, 8]]


def test_long_sentences_are_cut_evenly():
    bounds, _ = cut_long(np.array([[0, 41]]), np.array([20]), np.zeros(41, bool))
    assert bounds.tolist() == [[0, 14], [14, 28], [28, 41]]


def test_packing_is_greedy_and_keeps_documents_apart():
    rng = np.random.default_rng(0)
    room = rng.integers(10, 40, 50)
    owners = np.sort(rng.integers(0, 50, 400))
    lengths = np.array([rng.integers(1, room[owner] + 1) for owner in owners])
    first = pack(lengths.tolist(), owners.tolist(), room.tolist())
    assert first[0] == 0
    for a, b in zip(first, [*first[1:], 400], strict=True):
        assert len(set(owners[a:b])) == 1
        assert lengths[a:b].sum() <= room[owners[a]]
        if b < 400 and owners[b] == owners[a]:  # the next sentence would not have fitted
            assert lengths[a : b + 1].sum() > room[owners[a]]


def test_no_sentences_no_passages():
    assert pack([], [], [10]).tolist() == []


def test_content_ids_depend_on_title_and_text():
    ids = {content_id("a", "b"), content_id("ab", ""), content_id("", "ab"), content_id("b", "a")}
    assert len(ids) == 4 and content_id("a", "b") in ids
    assert all(len(i) == 32 and int(i, 16) >= 0 for i in ids)
