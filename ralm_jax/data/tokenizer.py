"""BERT WordPiece: vocabularies, tokenizers, and a fast way through a lot of text.

Special tokens never come out of text: they are not registered with the tokenizer, so a document
that literally contains "[SEP]" is read as ordinary pieces. Who needs a special token writes its id.
"""

import json
import re
import string
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from ralm_jax.data.tokenizer_settings import BERT, SETTINGS, TokenizerSettings
from ralm_jax.errors import UserError

PAD, UNK, CLS, SEP, MASK = SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
CONTINUATION = "##"
VOCABULARY = "vocab.txt"

# WordPiece treats what lies between blanks, and every ASCII punctuation mark, by itself. Only these
# four count as blanks: others that Python calls white space are removed by BERT's normaliser, which
# joins their neighbours.
_WORD = re.compile(r"[^ \t\n\r!-/:-@\[-`{-~]+|[!-/:-@\[-`{-~]")
# The trainer takes a time that grows with the square of a word's length, and no word of more than 100
# characters is ever looked up. Ideographs and their punctuation are words by themselves.
_LONG_WORD = re.compile(r"[^\s!-/:-@\[-`{-~\u3000-\u303f\u3400-\u9fff\uff00-\uff0f]{1000}(?=\S)")
_BLANK, _MARK, _OTHER = range(3)
_CLASS = np.full(129, _OTHER, np.uint8)  # of each ASCII character, and of all others
_CLASS[[ord(c) for c in " \t\n\r"]] = _BLANK
_CLASS[[ord(c) for c in string.punctuation]] = _MARK
_MAX_CACHED = 1 << 21  # wordpieces; about 150 MB with the words they belong to


@dataclass(frozen=True)
class Vocabulary:
    """The special ids, V, which pieces go on a word, and where that hangs on more ([V] bool each).

    breaks: pieces such as "(", behind which a word begins that nothing marks. None where a word always begins
      with a piece of its own kind, as BERT's do.
    """

    pad: int
    unk: int
    cls: int
    sep: int
    mask: int
    size: int
    continuation: np.ndarray
    breaks: np.ndarray | None = None

    def begins(self, tokens: np.ndarray) -> np.ndarray:
        """Which tokens [n] of a text begin a word; the first of them always does. -> bool [n]."""
        begins = ~self.continuation[tokens]
        if self.breaks is not None:
            begins[1:] |= self.breaks[tokens[:-1]]
        begins[:1] = True
        return begins


class Wordpieces(NamedTuple):
    """The wordpieces of a batch of b texts, one text after the other."""

    joined: str  # the texts, a line end after each
    begins: np.ndarray  # [b + 1] int64, where each text begins in `joined`
    ids: np.ndarray  # [n] int32
    starts: np.ndarray  # [n] int64: piece i is joined[starts[i]:stops[i]]
    stops: np.ndarray  # [n] int64


def load_tokenizer(vocab_file: str | Path, settings: TokenizerSettings = BERT) -> Tokenizer:
    """The tokenizer of a BERT `vocab.txt`.

    Raises UserError when it cannot be read, lacks a special token or does not begin with [PAD].
    """
    pieces = read_vocabulary(vocab_file)
    missing = [token for token in SPECIALS if token not in pieces]
    if missing:
        raise UserError(
            f"the vocabulary {vocab_file} lacks {', '.join(missing)}; give a BERT vocab.txt"
        )
    if pieces[0] != PAD:
        raise UserError(f"the vocabulary {vocab_file} must begin with {PAD}: id 0 is padding")
    ids = {piece: i for i, piece in enumerate(pieces)}
    if len(ids) < len(pieces):
        twice = next(piece for i, piece in enumerate(pieces) if ids[piece] != i)
        raise UserError(f"the vocabulary {vocab_file} has {twice!r} twice; each piece has one id")
    return _tokenizer(ids, settings)


def read_vocabulary(vocab_file: str | Path) -> list[str]:
    """The lines of a `vocab.txt`, as they are. Raises UserError when it cannot be read."""
    try:
        text = Path(vocab_file).read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the vocabulary {vocab_file}: {error}") from None
    # Not splitlines(): vocabularies hold U+2028 and the like, which it takes for the end of a line.
    return [line.rstrip("\r") for line in text.removesuffix("\n").split("\n")]


def write_vocabulary(
    folder: Path,
    pieces: Sequence[str],
    settings: TokenizerSettings = BERT,
    max_length: int = 512,
) -> None:
    """Writes vocab.txt and tokenizer_config.json, the two files a BERT tokenizer is made of.

    `max_length`: wordpieces of a text, for the libraries that cut texts by this file.
    """
    (folder / VOCABULARY).write_text("".join(f"{piece}\n" for piece in pieces), "utf-8")
    config = {
        "tokenizer_class": "BertTokenizer",
        **settings.as_config(),
        "model_max_length": max_length,
    }
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    config |= dict(zip(names, SPECIALS, strict=True))
    (folder / SETTINGS).write_text(json.dumps(config, indent=1) + "\n", "utf-8")


def pieces_of(tokenizer: Tokenizer) -> list[str]:
    """The vocabulary in the order of ids."""
    pieces = tokenizer.get_vocab()
    return sorted(pieces, key=pieces.__getitem__)


def train_vocabulary(
    texts: Iterable[str], size: int, settings: TokenizerSettings = BERT
) -> list[str]:
    """A WordPiece vocabulary of at most `size` pieces learnt from `texts`, special tokens first.

    A word of more than 1,000 characters is learnt from in parts of 1,000.
    """
    tokenizer = _tokenizer({token: i for i, token in enumerate(SPECIALS)}, settings)
    texts = [_LONG_WORD.sub(r"\g<0> ", text) for text in texts]
    # The trainer breaks ties by ids, and gives ids to characters as it meets them, in an order that
    # differs from run to run. Handing it the characters beforehand makes it reproducible.
    trainer = trainers.WordPieceTrainer(
        vocab_size=size,
        min_frequency=2,
        special_tokens=[*SPECIALS, *_alphabet(texts, tokenizer)],
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return pieces_of(tokenizer)


def _alphabet(texts: Sequence[str], tokenizer: Tokenizer) -> list[str]:
    """The characters that words are made of, first as beginnings, then as continuations."""
    normalise = tokenizer.normalizer.normalize_str
    written = set().union(*texts)
    characters = sorted({c for w in written for c in normalise(w) if c not in " \t\n\r"})
    within = [
        c
        for c in characters
        if len(tokenizer.pre_tokenizer.pre_tokenize_str(normalise(f"a{c}a"))) == 1
    ]
    return [*characters, *(f"{CONTINUATION}{c}" for c in within)]


def vocabulary_of(tokenizer: Tokenizer) -> Vocabulary:
    """The Vocabulary of a tokenizer made by `load_tokenizer`."""
    pieces = tokenizer.get_vocab()
    size = max(pieces.values()) + 1
    continuation = np.zeros(size, bool)
    continuation[[i for piece, i in pieces.items() if piece.startswith(CONTINUATION)]] = True
    pad, unk, cls, sep, mask = (pieces[token] for token in SPECIALS)
    return Vocabulary(pad, unk, cls, sep, mask, size, continuation)


def piece_texts(tokenizer: Tokenizer) -> list[str]:
    """What each wordpiece stands for, by id; special tokens are no words."""
    pieces = tokenizer.get_vocab()
    texts = [""] * (max(pieces.values()) + 1)
    for piece, number in pieces.items():
        special = piece.startswith("[") and piece.endswith("]") and len(piece) > 2
        texts[number] = "" if special else piece.removeprefix(CONTINUATION)
    return texts


def _tokenizer(pieces: dict[str, int], settings: TokenizerSettings) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(pieces, unk_token=UNK, max_input_chars_per_word=100))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer_of(settings)
    tokenizer.decoder = decoders.WordPiece(prefix=CONTINUATION)
    return tokenizer


def normalizer_of(
    settings: TokenizerSettings,
) -> tuple[normalizers.BertNormalizer, pre_tokenizers.BertPreTokenizer]:
    """What a text goes through before its words are cut into wordpieces."""
    normalizer = normalizers.BertNormalizer(
        lowercase=settings.lowercase,
        strip_accents=settings.strip_accents,
        handle_chinese_chars=settings.chinese_characters,
    )
    return normalizer, pre_tokenizers.BertPreTokenizer()


class Encoder:
    """Tokenizes batches of texts with offsets, giving each distinct word to the tokenizer once.

    The pieces and offsets of `tokenizer.encode`, twice as fast where blanks are between the words.
    """

    # A word has the same pieces wherever it stands.
    in_context = False

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._forget()

    def _forget(self) -> None:
        self._index: dict[str, int] = {}
        self._first, self._count = (
            array("i"),
            array("i"),
        )  # per word: where its pieces begin, how many
        self._ids, self._starts, self._stops = array("i"), array("i"), array("i")  # per piece

    def _learn(self, words: Iterable[str]) -> None:
        new = list(dict.fromkeys(word for word in words if word not in self._index))
        for word, encoding in zip(new, self._tokenizer.encode_batch(new), strict=True):
            self._index[word] = len(self._first)
            self._first.append(len(self._ids))
            self._count.append(len(encoding))
            self._ids.extend(encoding.ids)
            if offsets := encoding.offsets:
                starts, stops = zip(*offsets, strict=True)
                self._starts.extend(starts)
                self._stops.extend(stops)

    def encode(self, texts: Sequence[str]) -> Wordpieces:
        """The wordpieces of the texts, special tokens not included."""
        if len(self._ids) > _MAX_CACHED:
            self._forget()
        joined = "".join(f"{text}\n" for text in texts)
        codes = np.frombuffer(joined.encode("utf-32-le"), np.uint32)
        classes = _CLASS[np.minimum(codes, 128)]
        before = np.concatenate((_CLASS[[ord(" ")]], classes[:-1]))
        # [w] where words begin
        positions = np.flatnonzero((classes == _MARK) | ((classes == _OTHER) & (before != _OTHER)))
        words = _WORD.findall(joined)
        self._learn(words)
        index = np.fromiter(map(self._index.__getitem__, words), np.int64, len(words))
        first, counts = (np.frombuffer(x, np.int32)[index] for x in (self._first, self._count))
        ends = np.cumsum(counts)
        # [n] row of each piece in the tables: from a word's first row on
        rows = np.repeat(first - (ends - counts), counts) + np.arange(counts.sum())
        ids, starts, stops = (
            np.frombuffer(x, np.int32)[rows] for x in (self._ids, self._starts, self._stops)
        )
        shift = np.repeat(positions, counts)
        begins = np.cumsum([0, *(len(text) + 1 for text in texts)])
        return Wordpieces(joined, begins, ids, starts + shift, stops + shift)
