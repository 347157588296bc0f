"""The corpus directory: passages as texts, as a token table, as sentences and as salient spans.

    manifest.json     format, counts, the fingerprint, the digest and the size of every other file
    vocab.txt         the WordPiece vocabulary; or tokenizer.json, a released tokenizer as it is, with
                      the files beside it that say which of its tokens does what
    texts/            a TFDS dataset in ArrayRecord: id, documents, title, text of each passage
    tokens.npy        [N, T] uint16 (uint32 where V > 65,536): title ids, body ids, then zeros
    lengths.npy       [N, 2] uint16: wordpieces of the title, of the body
    ids.npy           [N] S32: content ids
    sentences.npy     [sentences, 3] int32: passage row, start, stop (wordpieces of the body)
    spans.npy         [spans, 4] int32: sentence row, start, stop (wordpieces of the body), kind
    span_groups.npy   [spans] uint64: spans that state one fact, in any passage, have equal groups
    documents.jsonl   id, digest and content ids of each document of the source
    tagger.json       what its salient spans were found by, where that was learnt from it

Beside these there may be versions of it; see `versions`.

T is three less than the budget of a passage: special tokens are not stored. Sentences and spans are
in the order of the text. A directory is complete or it is not there: it is written under another
name and published by one rename.
"""

import hashlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from ralm_jax import checksums, json_text, versions
from ralm_jax.arrays import mapped, require_whole
from ralm_jax.data.texts import ROWS, TEXTS, Texts
from ralm_jax.data.tokenizer import VOCABULARY, Vocabulary
from ralm_jax.data.tokenizer_json import FILES
from ralm_jax.data.tokenizer_settings import TokenizerSettings
from ralm_jax.data.tokenizing import Tokenizing, open_tokenizer, vocabulary_file
from ralm_jax.errors import UserError
from ralm_jax.names import beneath

FORMAT = 1
DOCUMENTS, TAGGER = "documents.jsonl", "tagger.json"
ARRAYS = ("tokens", "lengths", "ids", "sentences", "spans", "span_groups")

# Of a corpus that is in memory only.
IN_MEMORY = versions.Pinned(Path(), 0, None)


@dataclass(frozen=True)
class Corpus:
    """A prepared corpus, opened; the arrays are those described above, memory-mapped."""

    path: Path
    vocabulary: Vocabulary
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
    # SHA-256 of each file, by its name.
    files: dict[str, str] = field(default_factory=dict)
    # The version that was opened: the folder of its files, its number, and the lock that keeps it there.
    version: versions.Pinned = IN_MEMORY

    @property
    def size(self) -> int:
        """N, the number of passages."""
        return len(self.tokens)

    @property
    def lowercase(self) -> bool:
        """Whether text is lower-cased before it is cut into wordpieces."""
        return self.tokenizer_settings.lowercase

    def texts(self) -> Texts:
        """Random access: `texts()[row]` has id, documents, title and text, as bytes.

        Raises UserError where they have changed.
        """
        self.check((ROWS, f"{TEXTS}/"))
        return Texts(self.version.folder)

    def check(self, names: Collection[str]) -> None:
        """Raises UserError where one of the files named, or in a folder named with a /, has changed."""
        check_files(self.version.folder, self.files, names)

    def require_whole(self) -> None:
        """Raises UserError where an array has been cut short since it was opened."""
        require_whole(*(getattr(self, name) for name in ARRAYS))

    def ancestors(self) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
        """Versions before this one, newest first: fingerprint and longest passage (wordpieces) of each, and
        the row [N] int32 that each passage has there, -1 where it has none."""
        if self.version.number == 0:
            return
        for about in _manifest(self.version.folder).get("ancestors", ()):
            folder = self.version.folder
            rows = beneath(folder, about["rows"], folder / "manifest.json")
            self.check((about["rows"],))
            yield about, mapped(rows)

    @property
    def is_current(self) -> bool:
        """Whether no newer version has been published since it was opened."""
        return versions.current(self.path) == (self.version.folder, self.version.number)

    def tokenizer(self) -> Tokenizer:
        """The tokenizer that the passages were cut with."""
        return self.tokenizing().tokenizer

    def tokenizing(self) -> Tokenizing:
        """The same, with what its pieces are."""
        return open_tokenizer(vocabulary_file(self.version.folder), self.tokenizer_settings)


def open_corpus(path: str | Path) -> Corpus:
    """Opens a corpus directory.

    The files must be there with their sizes, and what is mapped must have its digest: large files are read
    for that when they are first opened (see `checksums`). Texts are read by who asks for them, and
    `verify_corpus` reads all.

    Raises:
      UserError: there is no corpus at `path`, it has another format version, or it is damaged: its
        manifest cannot be read, or a file is missing, has another size or has changed.
    """
    pinned = versions.pin(Path(path))
    folder = pinned.folder
    manifest = _manifest(folder)
    try:
        _check_sizes(folder, manifest)
        mapped_names = (*(f"{name}.npy" for name in ARRAYS), VOCABULARY, *FILES)
        check_files(folder, manifest["files"], mapped_names)
        settings = TokenizerSettings.from_record(manifest)
        arrays: dict[str, Any] = {name: mapped(folder / f"{name}.npy") for name in ARRAYS}
        _check_rows(folder, arrays, manifest["counts"])
        return Corpus(
            path=Path(path),
            version=pinned,
            vocabulary=open_tokenizer(vocabulary_file(folder), settings).vocabulary,
            tokenizer_settings=settings,
            kinds=tuple(manifest["kinds"]),
            **{
                name: manifest[name]
                for name in ("passage_tokens", "fingerprint", "counts", "files")
            },
            **arrays,
        )
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            raise _damaged(folder, repr(error)) from None
        raise UserError(f"the corpus {folder} cannot be read: {error.strerror or error}") from error
    # An empty .npy file is an EOFError.
    except (EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(folder, repr(error)) from None


def verify_corpus(path: str | Path, seen: Callable[[int], object] = int) -> None:
    """Reads every file of a corpus and compares it with the digest in the manifest.

    `seen` is called with the size of each file that has been read.

    Raises:
      UserError: there is no corpus at `path`, it has another format version, or a file is missing
        or has changed; the message names the first such file.
    """
    pinned = versions.pin(Path(path))
    path = pinned.folder
    manifest = _manifest(path)
    try:
        for name, expected in manifest["files"].items():
            if not beneath(path, name, path / "manifest.json").is_file():
                raise _damaged(path, f"{name} is missing")
            if checksums.sha256(path / name) != expected:
                raise _damaged(path, f"{name} has changed")
            seen((path / name).stat().st_size)
    except (OSError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, repr(error)) from None


def check_files(path: Path, files: dict[str, str], names: Collection[str]) -> None:
    """Compares those files of a corpus that are named, or in a folder named with a /, with their digests.

    Raises UserError where one has changed.
    """
    folders = tuple(name for name in names if name.endswith("/"))
    for name, expected in files.items():
        if name in names or name.startswith(folders):
            try:
                checksums.check(path / name, expected)
            except checksums.DamagedError:
                raise _damaged(path, f"{name} has changed") from None


def _manifest(path: Path) -> dict[str, Any]:
    """The manifest of the corpus at `path`, checked to be of the format that this version reads."""
    file = path / "manifest.json"
    try:
        if not file.is_file():
            raise UserError(
                f"there is no corpus at {path}; make one with: ralm prepare SOURCE --out {path}"
            )
        manifest = json_text.parse(file.read_text(encoding="utf-8"))
        found = manifest["format"]
        # Another format may have another way to say that it is whole.
        if found == FORMAT:
            return checksums.unsealed(manifest)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(path, f"manifest.json cannot be read ({error!r})") from None
    raise UserError(
        f"the corpus {path} has format {found}, and this version reads format {FORMAT}; "
        "prepare it again"
    )


def _check_sizes(path: Path, manifest: dict[str, Any]) -> None:
    # Manifests of earlier versions have no sizes: for these `_check_rows` must do.
    sizes = manifest.get("sizes", {})
    for name in manifest["files"]:
        if not beneath(path, name, path / "manifest.json").is_file():
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
        return json_text.parse((path / "manifest.json").read_text(encoding="utf-8"))["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def fingerprint_of(files: dict[str, str]) -> str:
    """The fingerprint of a corpus by the digests of its files; content ids stand for the texts."""
    tokenizer = [files[name] for name in (VOCABULARY, *FILES) if name in files]
    seen = [*tokenizer, *(files[f"{name}.npy"] for name in ARRAYS)]
    return hashlib.sha256("".join(seen).encode()).hexdigest()[:32]
