"""The corpus directory: passages as texts, as a token table, as sentences and as salient spans.

    manifest.json     format, counts, the fingerprint, the digest and the size of every other file
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
    # The budget that passages were cut to: 3 special tokens, title and body.
    passage_tokens: int
    # Of everything that a model can see: corpora with equal fingerprints are equal.
    fingerprint: str
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
        # The import takes half a second, and training needs no texts.
        import tensorflow_datasets as tfds

        return tfds.builder_from_directory(self.path / "texts").as_data_source(split="train")

    def tokenizer(self) -> Tokenizer:
        """The tokenizer that the passages were cut with."""
        return wordpiece.load_tokenizer(self.path / "vocab.txt", self.tokenizer_settings)


def open_corpus(path: str | Path) -> Corpus:
    """Opens a corpus directory, at a cost that does not depend on how large the corpus is.

    The manifest is read, and the files must be there with their sizes; `verify_corpus` reads them.

    Raises:
      UserError: there is no corpus at `path`, it has another format version, or it is damaged: its
        manifest cannot be read, or a file is missing or has another size.
    """
    path = Path(path)
    manifest = _manifest(path)
    try:
        _check_sizes(path, manifest)
        settings = TokenizerSettings.from_record(manifest)
        arrays = {name: np.load(path / f"{name}.npy", mmap_mode="r") for name in ARRAYS}
        _check_rows(path, arrays, manifest["counts"])
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
    # An empty .npy file is an EOFError.
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, repr(error)) from None


def verify_corpus(path: str | Path) -> None:
    """Reads every file of a corpus and compares it with the digest in the manifest.

    Raises:
      UserError: there is no corpus at `path`, it has another format version, or a file is missing
        or has changed; the message names the first such file.
    """
    path = Path(path)
    manifest = _manifest(path)
    try:
        for name, expected in manifest["files"].items():
            if not (path / name).is_file():
                raise _damaged(path, f"{name} is missing")
            if digest(path / name) != expected:
                raise _damaged(path, f"{name} has changed")
    except (OSError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, repr(error)) from None


def _manifest(path: Path) -> dict[str, Any]:
    """The manifest of the corpus at `path`, checked to be of the format that this version reads."""
    file = path / "manifest.json"
    try:
        if not file.is_file():
            raise UserError(
                f"there is no corpus at {path}; make one with: ralm prepare SOURCE --out {path}"
            )
        manifest = json.loads(file.read_text(encoding="utf-8"))
        found = manifest["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(path, f"manifest.json cannot be read ({error!r})") from None
    if found != FORMAT:
        raise UserError(
            f"the corpus {path} has format {found}, and this version reads format {FORMAT}; "
            "prepare it again"
        )
    return manifest


def _check_sizes(path: Path, manifest: dict[str, Any]) -> None:
    # Manifests of earlier versions have no sizes: for these `_check_rows` must do.
    sizes = manifest.get("sizes", {})
    for name in manifest["files"]:
        if not (path / name).is_file():
            raise _damaged(path, f"{name} is missing")
        size = (path / name).stat().st_size
        if size != sizes.get(name, size):
            raise _damaged(path, f"{name} has {size:,} bytes rather than {sizes[name]:,}")


def _check_rows(path: Path, arrays: dict[str, np.memmap], counts: dict[str, int]) -> None:
    """Compares the arrays with the counts, and the length of each file with what its header says."""
    per_passage, per_span = ("tokens", "lengths", "ids"), ("spans", "span_groups")
    rows = dict.fromkeys(per_passage, counts["passages"])
    rows |= {"sentences": counts["sentences"]} | dict.fromkeys(per_span, counts["spans"])
    for name, array in arrays.items():
        if len(array) != rows[name]:
            raise _damaged(path, f"{name}.npy has {len(array):,} rows rather than {rows[name]:,}")
        size = (path / f"{name}.npy").stat().st_size
        if size != array.offset + array.nbytes:
            raise _damaged(path, f"{name}.npy is not as long as its header says")


def _damaged(path: Path, reason: str) -> UserError:
    return UserError(f"the corpus {path} is damaged: {reason}; prepare it again")


def fingerprint(path: Path) -> str | None:
    """The fingerprint of the corpus at `path`; None where there is none that can be read."""
    try:
        return json.loads((path / "manifest.json").read_text(encoding="utf-8"))["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint_of(files: dict[str, str]) -> str:
    """The fingerprint of a corpus by the digests of its files; content ids stand for the texts."""
    seen = [files["vocab.txt"], *(files[f"{name}.npy"] for name in ARRAYS)]
    return hashlib.sha256("".join(seen).encode()).hexdigest()[:32]
