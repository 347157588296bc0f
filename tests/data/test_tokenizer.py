import random
from itertools import pairwise

import numpy as np
import pytest

from ralm_jax.data.tokenizer import (
    SPECIALS,
    Encoder,
    load_tokenizer,
    train_vocabulary,
    vocabulary_of,
    write_vocabulary,
)
from ralm_jax.data.tokenizer_settings import SETTINGS, TokenizerSettings, read_settings
from ralm_jax.errors import UserError

TEXTS = [
    "The cat's naïve café cost $3.14 (or 2,000円) in Łódź, e.g. U.S.A. ...",
    "東京タワーは333メートル。プログラミング言語 Python は useful です!",
    "tab\tand\r\nline\x0bfeed \x00null\u200bzero \ufeffbom e\u0301accent ﬁ İstanbul \x1c x\x85y",
    "",
    "   ",
    "[SEP] [MASK] [PAD] ##ing é̂ x\u0338 =\u0338= snake_case https://a.b/c?d=e#f 👩‍🚀",
]


@pytest.fixture(
    scope="module",
    params=[
        TokenizerSettings(),
        TokenizerSettings(lowercase=False),
        TokenizerSettings(strip_accents=False, chinese_characters=False),
        TokenizerSettings(lowercase=False, strip_accents=True),
    ],
    ids=["uncased", "cased", "accents kept", "accents stripped"],
)
def tokenizer(request, tmp_path_factory):
    pieces = train_vocabulary(TEXTS * 3, 200, request.param)
    file = tmp_path_factory.mktemp("vocabulary") / "vocab.txt"
    file.write_text("".join(f"{piece}\n" for piece in pieces))
    return load_tokenizer(file, request.param)


def split(pieces):
    """Per text: the ids, and the offsets within the text."""
    cuts = np.searchsorted(pieces.starts, pieces.begins)
    for i, (a, b) in enumerate(pairwise(cuts)):
        offsets = np.stack((pieces.starts[a:b], pieces.stops[a:b]), 1) - pieces.begins[i]
        yield pieces.ids[a:b].tolist(), [tuple(pair) for pair in offsets.tolist()]


def test_encoder_is_the_tokenizer(tokenizer):
    rng = random.Random(0)
    alphabet = "".join(TEXTS)
    texts = TEXTS + ["".join(rng.choices(alphabet, k=rng.randrange(60))) for _ in range(400)]
    encoder = Encoder(tokenizer)
    for _ in range(2):  # the second time every word is known
        for text, (ids, offsets) in zip(texts, split(encoder.encode(texts)), strict=True):
            expected = tokenizer.encode(text, add_special_tokens=False)
            assert (ids, offsets) == (expected.ids, expected.offsets), repr(text)


def test_encoder_forgets_without_changing_its_answers(tokenizer, monkeypatch):
    expected = Encoder(tokenizer).encode(TEXTS)
    monkeypatch.setattr("ralm_jax.data.tokenizer._MAX_CACHED", 0)
    encoder = Encoder(tokenizer)
    pieces = set()
    for _ in range(3):
        again = encoder.encode(TEXTS)
        assert all(np.array_equal(a, b) for a, b in zip(expected[1:], again[1:], strict=True))
        pieces.add(len(encoder._ids))
    assert len(pieces) == 1  # the tables do not grow


def test_no_text_becomes_a_special_token(tokenizer):
    vocabulary = vocabulary_of(tokenizer)
    special = {vocabulary.pad, vocabulary.cls, vocabulary.sep, vocabulary.mask}
    (pieces,) = split(Encoder(tokenizer).encode([" ".join(SPECIALS) + "[SEP][MASK]"]))
    assert not special & set(pieces[0])


def test_vocabulary_says_which_pieces_go_on_a_word(tokenizer):
    vocabulary = vocabulary_of(tokenizer)
    assert (vocabulary.pad, vocabulary.mask) == (0, 4)
    assert vocabulary.continuation.shape == (vocabulary.size,)
    for piece, i in tokenizer.get_vocab().items():
        assert vocabulary.continuation[i] == piece.startswith("##")


@pytest.mark.parametrize("unit", ["abcd", "e\u0301", "\u3042\u3044"])
def test_a_word_without_end_is_learnt_from_in_parts(unit):
    """Training takes a time that grows with the square of a word's length: minutes for a long one."""
    words = [unit * (length // len(unit)) for length in (1000, 1000, 500)]
    text = "Ideographs in a row, \u6f22\u5b57" + "\u6f22" * 1500 + ", are words. "
    whole, parts = text + "".join(words), text + " ".join(words)
    assert train_vocabulary([whole] * 2, 60) == train_vocabulary([parts] * 2, 60)


def test_training_a_vocabulary_is_reproducible():
    assert train_vocabulary(TEXTS, 150) == train_vocabulary(TEXTS, 150)
    assert train_vocabulary(TEXTS, 150)[: len(SPECIALS)] == list(SPECIALS)


def test_vocabulary_file_with_carriage_returns_and_line_separators(tmp_path):
    pieces = [*SPECIALS, "a", "\u2028", "##b"]
    for end in ("\n", "\r\n"):
        (tmp_path / "vocab.txt").write_bytes("".join(p + end for p in pieces).encode())
        loaded = load_tokenizer(tmp_path / "vocab.txt")
        assert loaded.token_to_id("##b") == 7
        assert vocabulary_of(loaded).size == 8


@pytest.mark.parametrize(
    ("pieces", "message"),
    [
        (SPECIALS[:-1], r"lacks \[MASK\]"),
        (SPECIALS[::-1], "must begin"),
        ((*SPECIALS, "a", "b", "a"), "has 'a' twice"),
    ],
)
def test_bad_vocabularies(tmp_path, pieces, message):
    (tmp_path / "vocab.txt").write_text("\n".join(pieces))
    with pytest.raises(UserError, match=message):
        load_tokenizer(tmp_path / "vocab.txt")


def test_missing_vocabulary(tmp_path):
    with pytest.raises(UserError, match="cannot read the vocabulary"):
        load_tokenizer(tmp_path / "vocab.txt")


@pytest.mark.parametrize(
    ("settings", "pieces"),
    [
        (TokenizerSettings(), ["schon", "muller", "東", "京"]),
        (TokenizerSettings(strip_accents=False), ["schön", "müller", "東", "京"]),
        (TokenizerSettings(lowercase=False), ["schön", "Müller", "東", "京"]),
        (TokenizerSettings(lowercase=False, strip_accents=True), ["schon", "Muller", "東", "京"]),
        (TokenizerSettings(chinese_characters=False), ["schon", "muller", "東京"]),
    ],
    ids=str,
)
def test_what_each_setting_does(tmp_path, settings, pieces):
    words = ["schon", "schön", "muller", "müller", "Muller", "Müller", "東", "京", "東京"]
    write_vocabulary(tmp_path, [*SPECIALS, *words], settings)
    loaded = load_tokenizer(tmp_path / "vocab.txt", read_settings(tmp_path / SETTINGS))
    assert loaded.encode("schön Müller 東京").tokens == pieces
