"""The corpus directory: passages as texts, as a token table, as sentences and as salient spans.

    manifest.json     format, sizes, counts, the fingerprint, a digest of every other file
    vocab.txt         the WordPiece vocabulary
    texts/            a TFDS dataset in ArrayRecord: id, documents, title, text of each passage
    tokens.npy        [N, T] uint16 (uint32 where V > 65,536): title ids, body ids, then zeros
    lengths.npy       [N, 2] uint16: wordpieces of the title, of the body
    ids.npy           [N] S32: content ids
    sentences.npy     [sentences, 3] int32: passage row, start, stop (wordpieces of the body)
    spans.npy         [spans, 4] int32: sentence row, start, stop (wordpieces of the body), kind
    span_groups.npy   [spans] uint64: spans that state one fact, in any passage, have equal groups

T is three less than the budget of a passage: special tokens are not stored. Sentences and spans are
in the order of the text. A directory is complete or it is not there: it is written under another
name and published by one rename.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from ralm_jax.data import tokenizer as wordpiece
from ralm_jax.data.tokenizer_settings import TokenizerSettings
from ralm_jax.errors import UserError

FORMAT = 1
ARRAYS = ("tokens", "lengths", "ids", "sentences", "spans", "span_groups")


@dataclass(frozen=True)
class Corpus:
    """A prepared corpus, opened; the arrays are those described above, memory-mapped."""

    path: Path
    vocabulary: wordpiece.Vocabulary
    tokenizer_settings: TokenizerSettings
    passage_tokens: int  # the budget passages were cut to: 3 special tokens, title and body
    fingerprint: str  # of everything a model can see: equal fingerprints, equal corpora
    counts: dict[str, Any]
    kinds: tuple[str, ...]
    tokens: np.ndarray
    lengths: np.ndarray
    ids: np.ndarray
    sentences: np.ndarray
    spans: np.ndarray
    span_groups: np.ndarray

    @property
    def size(self) -> int:
        """N, the number of passages."""
        return len(self.tokens)

    @property
    def lowercase(self) -> bool:
        """Whether text is lower-cased before it is cut into wordpieces."""
        return self.tokenizer_settings.lowercase

    def texts(self) -> Any:
        """Random access: `texts()[row]` has id, documents, title and text, as bytes."""
        import tensorflow_datasets as tfds  # half a second, and training needs no texts

        return tfds.builder_from_directory(self.path / "texts").as_data_source(split="train")

    def tokenizer(self) -> Tokenizer:
        """The tokenizer the passages were cut with."""
        return wordpiece.load_tokenizer(self.path / "vocab.txt", self.tokenizer_settings)


def open_corpus(path: str | Path) -> Corpus:
    """Opens and verifies a corpus directory.

    Raises UserError when there is none at `path`, or it is damaged, or of another format version.
    """
    path = Path(path)
    if not (path / "manifest.json").is_file():
        raise UserError(
            f"there is no corpus at {path}; make one with: ralm prepare SOURCE --out {path}"
        )
    try:
        manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
        if manifest["format"] != FORMAT:
            raise UserError(
                f"the corpus {path} has format {manifest['format']}, and {FORMAT} is read here; "
                "prepare it anew"
            )
        for name, wanted in manifest["files"].items():
            if digest(path / name) != wanted:
                raise UserError(
                    f"the corpus {path} is damaged: {name} has changed; prepare it anew"
                )
        settings = TokenizerSettings.from_record(manifest)
        arrays = {name: np.load(path / f"{name}.npy", mmap_mode="r") for name in ARRAYS}
        return Corpus(
            path=path,
            vocabulary=wordpiece.vocabulary_of(
                wordpiece.load_tokenizer(path / "vocab.txt", settings)
            ),
            tokenizer_settings=settings,
            kinds=tuple(manifest["kinds"]),
            **{name: manifest[name] for name in ("passage_tokens", "fingerprint", "counts")},
            **arrays,
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"the corpus {path} is damaged: {error!r}; prepare it anew") from None


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint_of(files: dict[str, str]) -> str:
    """The fingerprint of a corpus by the digests of its files; content ids stand for the texts."""
    seen = [files["vocab.txt"], *(files[f"{name}.npy"] for name in ARRAYS)]
    return hashlib.sha256("".join(seen).encode()).hexdigest()[:32]
