import doctest
import sys

import numpy as np
from tokenizers import normalizers

from ralm_jax.metrics import plain_text
from ralm_jax.metrics.plain_text import origins, plain

# Letters with and without accents, composed and apart; jamo; a dropped character of each kind; blanks.
ALPHABET = (
    "aeq \n\t\0\xad\u00e9\u0301\u0323\u0302\u1100\u1161\u11a8\u1ec7\u200b\u212b\u3042\u3099\uac00"
    "\ue000\ufeff\ufffd"
)


def test_the_examples_of_the_docstrings():
    assert doctest.testmod(plain_text).failed == 0


def test_what_is_dropped_is_what_the_tokenizer_drops():
    """Over all of Unicode: else training and evaluation would see different words."""
    clean = normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=False, strip_accents=False, lowercase=False
    )
    for code in range(sys.maxunicode + 1):
        if not 0xD800 <= code < 0xE000:
            character = chr(code)
            dropped = clean.normalize_str(f"a{character}b") == "ab"
            assert (plain_text._UNSEEN.match(character) is not None) == dropped, hex(code)


def test_origins_lead_back_from_every_character():
    rng = np.random.default_rng(0)
    for _ in range(3000):
        text = "".join(rng.choice(list(ALPHABET), rng.integers(0, 9)))
        found, made = plain(text), origins(text)
        assert len(made) == len(found)
        for character, (start, stop) in zip(found, made, strict=True):
            assert character in plain(text[start:stop])
        assert made == sorted(made)
        # What no character comes from is what was dropped.
        covered = {i for start, stop in made for i in range(start, stop)}
        assert not plain("".join(c for i, c in enumerate(text) if i not in covered))
