from pathlib import Path

import numpy as np
import pytest

from ralm_jax.data.corpus import Corpus
from ralm_jax.data.tokenizer import Vocabulary
from ralm_jax.examples import features

CLS, SEP = 2, 3
VOCABULARY = Vocabulary(0, 1, CLS, SEP, 4, 100, np.zeros(100, bool))
PASSAGES = [  # title, body
    ([10, 11], [20, 21, 22, 23, 24, 25, 26, 27]),
    ([], [30, 31, 32]),
    ([40, 41, 42, 43, 44, 45], [50, 51]),
]


def corpus_of(passages, width=16):
    tokens = np.zeros((len(passages), width), np.uint16)
    for row, (title, body) in enumerate(passages):
        tokens[row, : len(title) + len(body)] = title + body
    lengths = np.array([[len(title), len(body)] for title, body in passages], np.uint16)
    none = np.zeros((0, 4), np.int32)
    return Corpus(
        Path(), VOCABULARY, True, width + 3, "", {}, (), tokens, lengths,
        np.zeros(len(passages), "S32"), none[:, :3], none, np.zeros(0, np.uint64),
    )  # fmt: skip


CORPUS = corpus_of(PASSAGES)


def padded(tokens, length):
    assert len(tokens) <= length
    return [*tokens, *[0] * (length - len(tokens))]


def passage(row, length, cut=None):
    cut = None if cut is None else np.array([cut], np.int32)
    text = features.passage_text(CORPUS, np.array([row]), length, cut)
    assert text.tokens.dtype == text.types.dtype == np.int32
    return text.tokens[0].tolist(), text.types[0].tolist()


def test_queries_are_cut_to_their_length():
    sentences = [np.array([20, 21]), np.array([20, 21, 22]), np.array([20, 21, 22, 23])]
    text = features.query_text(CORPUS, sentences, 5)
    whole = [CLS, 20, 21, 22, SEP]
    assert text.tokens.tolist() == [[CLS, 20, 21, SEP, 0], whole, whole]
    assert not text.types.any()


@pytest.mark.parametrize(
    ("row", "length", "wanted", "second"),
    [
        (0, 15, [CLS, 10, 11, SEP, *range(20, 28), SEP], 9),  # two places of padding
        (0, 13, [CLS, 10, 11, SEP, *range(20, 28), SEP], 9),  # fits exactly
        (0, 12, [CLS, 10, 11, SEP, *range(20, 27), SEP], 8),
        (0, 6, [CLS, 10, 11, SEP, 20, SEP], 2),
        (0, 5, [CLS, 10, 11, SEP, SEP], 1),  # the title leaves no room
        (0, 4, [CLS, 10, SEP, SEP], 1),
        (1, 8, [CLS, SEP, 30, 31, 32, SEP], 4),  # no title
        (2, 8, [CLS, 40, 41, 42, 43, 44, SEP, SEP], 1),
        (features.NULL, 7, [CLS, SEP, SEP], 1),
    ],
)
def test_passages_by_hand(row, length, wanted, second):
    tokens, types = passage(row, length)
    assert tokens == padded(wanted, length)
    first = len(wanted) - second
    assert types == padded([0] * first + [1] * second, length)


@pytest.mark.parametrize(
    ("cut", "body"),
    [
        ((0, 3), [23, 24, 25, 26, 27]),
        ((3, 6), [20, 21, 22, 26, 27]),
        ((6, 8), [20, 21, 22, 23, 24, 25]),
        ((0, 8), []),
        ((0, 0), list(range(20, 28))),
    ],
)
@pytest.mark.parametrize("length", [16, 10, 8])
def test_a_sentence_is_cut_out_before_the_end_is_cut_off(cut, body, length):
    body = body[: length - 5]
    tokens, types = passage(0, length, cut)
    assert tokens == padded([CLS, 10, 11, SEP, *body, SEP], length)
    assert types == padded([0] * 4 + [1] * (len(body) + 1), length)


def test_joint_texts_by_hand():
    query = features.query_text(CORPUS, [np.array([60]), np.array([70, 71, 72])], 6)
    rows = np.array([[features.NULL, 0, 1], [1, 2, features.NULL]])
    text = features.joint_text(CORPUS, query, rows, 9)
    asked, longer = [CLS, 60, SEP], [CLS, 70, 71, 72, SEP]
    wanted = [
        [(asked, [SEP]), (asked, [20, 21, 22, 23, 24, SEP]), (asked, [30, 31, 32, SEP])],
        [(longer, [30, 31, 32, SEP]), (longer, [50, 51, SEP]), (longer, [SEP])],
    ]
    assert text.tokens.tolist() == [[padded(a + b, 9) for a, b in row] for row in wanted]
    types = [[padded([0] * len(a) + [1] * len(b), 9) for a, b in row] for row in wanted]
    assert text.types.tolist() == types


def test_batches_equal_a_plain_list_for_any_length():
    rng = np.random.default_rng(0)
    passages = [
        (rng.integers(5, 99, n).tolist(), rng.integers(5, 99, 16 - n - m).tolist())
        for n, m in rng.integers(0, 8, (40, 2))
    ]
    corpus, rows = corpus_of(passages), np.arange(-1, 40)
    passages = [*passages, ([], [])]  # the null passage is row -1 here as well
    sentences = [rng.integers(5, 99, n) for n in rng.integers(0, 12, len(rows))]
    for length in range(4, 24):
        texts = features.passage_text(corpus, rows, length)
        query = features.query_text(corpus, sentences, 9)
        joints = features.joint_text(corpus, query, rows[:, None], length + 9)
        for i, row in enumerate(rows):
            title, body = passages[row]
            title = title[: length - 3]
            tokens = [CLS, *title, SEP, *body[: length - 3 - len(title)], SEP]
            assert texts.tokens[i].tolist() == padded(tokens, length)
            front = [CLS, *sentences[i][:7], SEP]
            tokens = [*front, *body[: length + 8 - len(front)], SEP]
            assert joints.tokens[i, 0].tolist() == padded(tokens, length + 9)
