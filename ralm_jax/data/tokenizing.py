"""The tokenizer of a corpus or a run, whichever of two its folder keeps: a vocab.txt, or a tokenizer.json.

A BERT vocab.txt comes with settings (see `tokenizer_settings`); a tokenizer.json is taken as it is.
"""

import shutil
from pathlib import Path
from typing import NamedTuple

from tokenizers import Tokenizer

from ralm_jax.data import tokenizer as wordpiece
from ralm_jax.data import tokenizer_json
from ralm_jax.data.tokenizer import VOCABULARY, Encoder, Vocabulary
from ralm_jax.data.tokenizer_json import FAST, FILES, TextEncoder
from ralm_jax.data.tokenizer_settings import BERT, TokenizerSettings


class Tokenizing(NamedTuple):
    """A tokenizer, its Vocabulary, and the text of each piece by id; "" of special ones."""

    tokenizer: Tokenizer
    vocabulary: Vocabulary
    texts: list[str]

    def encoder(self) -> Encoder | TextEncoder:
        """The fast way through a lot of text."""
        as_it_is = self.vocabulary.breaks is not None
        return TextEncoder(self.tokenizer) if as_it_is else Encoder(self.tokenizer)


def vocabulary_file(folder: Path) -> Path:
    """Which of the two a folder keeps; a vocab.txt where it has neither."""
    fast = folder / FAST
    return fast if fast.is_file() and not (folder / VOCABULARY).is_file() else folder / VOCABULARY


def is_kept(file: str | Path) -> bool:
    """Whether a file is a tokenizer to be taken as it is, rather than a list of wordpieces."""
    return Path(file).name == FAST


def open_tokenizer(file: str | Path, settings: TokenizerSettings = BERT) -> Tokenizing:
    """The tokenizer in a file; settings are those of a vocab.txt. Raises UserError if it cannot be read."""
    if is_kept(file):
        return Tokenizing(*tokenizer_json.load(file))
    loaded = wordpiece.load_tokenizer(file, settings)
    return Tokenizing(loaded, wordpiece.vocabulary_of(loaded), wordpiece.piece_texts(loaded))


def write_tokenizer(
    folder: Path, file: Path, settings: TokenizerSettings, max_length: int = 512
) -> None:
    """Writes the tokenizer in a file into a folder: a tokenizer.json byte for byte."""
    if is_kept(file):
        keep(file.parent, folder)
    else:
        pieces = wordpiece.pieces_of(wordpiece.load_tokenizer(file, settings))
        wordpiece.write_vocabulary(folder, pieces, settings, max_length)


def keep(source: Path, folder: Path) -> None:
    """Copies a tokenizer.json and what says which of its tokens does what, byte for byte."""
    for name in FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)


def same(file: Path, other: Path) -> bool:
    """Whether two files have the same pieces, cut in the same way but for settings."""
    if is_kept(file) != is_kept(other):
        return False
    if not is_kept(file):
        return wordpiece.read_vocabulary(file) == wordpiece.read_vocabulary(other)
    alike = file.read_bytes() == other.read_bytes()
    return alike and tokenizer_json.roles(file).ids == tokenizer_json.roles(other).ids
