"""A released tokenizer.json as it is: its roles, its words, and ids with padding first.

Models here take id 0 for padding, and a released tokenizer may have it elsewhere: in memory these two ids
change places, and nowhere else. Whoever moves weights in or out does the same to the rows (`exchanged`). The
files stay as they came, byte for byte.

Special tokens never come out of text here either: "<mask>" in a document is read as ordinary pieces.
"""

import functools
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tokenizers import Tokenizer

from ralm_jax import json_text
from ralm_jax.data.tokenizer import Vocabulary, Wordpieces
from ralm_jax.data.tokenizer_settings import SETTINGS
from ralm_jax.errors import UserError

FAST, SPECIAL_TOKENS = "tokenizer.json", "special_tokens_map.json"
# What a run and a corpus keep of a source: the tokenizer, and the files that say which token does what.
FILES = (FAST, SPECIAL_TOKENS, SETTINGS)
# Names that tokens of a role go by where no file says more.
ROLES = {
    "pad": ("[PAD]", "<pad>"),
    "unk": ("[UNK]", "<unk>"),
    "cls": ("[CLS]", "<s>"),
    "sep": ("[SEP]", "</s>"),
    "mask": ("[MASK]", "<mask>"),
}
# Scripts without blanks between words: whatever stands there begins a word, as Chinese characters do in BERT.
UNSPACED = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
BLANK = "▁"
# Characters: the library frees a piece by a call within a call for each, and at 100,000 the stack overflows.
LONGEST_PIECE = 4096
# Letters of scripts that few vocabularies have.
_UNKNOWN = "\u16a0 \ua015 \U00010348"


class Roles(NamedTuple):
    """The tokens of a tokenizer that a model is given beside text, and their ids in its own file."""

    tokens: dict[str, str]
    ids: dict[str, int]

    @property
    def pad(self) -> int:
        """The id that changes places with 0."""
        return self.ids["pad"]


class Loaded(NamedTuple):
    """A tokenizer with padding first, its Vocabulary, and the text of each piece ("" of special ones)."""

    tokenizer: Tokenizer
    vocabulary: Vocabulary
    texts: list[str]


def exchanged(rows: np.ndarray, pad: int) -> np.ndarray:
    """Rows of tokens [V,...], the row of padding in the place of the first and the other way round."""
    rows = rows.copy()
    rows[[0, pad]] = rows[[pad, 0]]
    return rows


def read_file(file: Path) -> dict[str, Any]:
    """A tokenizer.json. Raises UserError where it cannot be read."""
    try:
        record = json_text.parse(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read: {error}") from None
    if not (isinstance(record, dict) and isinstance(record.get("model"), dict)):
        raise UserError(f"{file} must be a JSON object with a model; is it a tokenizer?")
    return record


def roles(file: Path) -> Roles:
    """Which token does what: by special_tokens_map.json, tokenizer_config.json, else by its name.

    Raises UserError where none is there for padding, [CLS], [SEP] or [MASK].
    """
    return _read_roles(Path(file), _state(Path(file)))


@functools.lru_cache(maxsize=4)
def _read_roles(file: Path, state: tuple) -> Roles:
    return _roles(file, ids_of(read_file(file), file))


def _state(file: Path) -> tuple:
    """By which a tokenizer is known again: one of 250,000 pieces takes seconds to read, and is read often.

    Raises UserError where it cannot be read.
    """
    try:
        files = [f for name in FILES if (f := file.parent / name).is_file()]
        return tuple((f, f.stat().st_mtime_ns, f.stat().st_size) for f in files)
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error}") from None


def ids_of(record: dict[str, Any], file: Path) -> dict[str, int]:
    """Every piece and added token of a tokenizer.json, with its id."""
    try:
        pieces = record["model"]["vocab"]
        if not isinstance(pieces, dict):
            pieces = {piece: i for i, (piece, _) in enumerate(pieces)}
        return pieces | {t["content"]: int(t["id"]) for t in record.get("added_tokens") or ()}
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UserError(f"{file} cannot be read: {error!r}") from None


def _roles(file: Path, ids: dict[str, int]) -> Roles:
    said = {}
    for name in (SETTINGS, SPECIAL_TOKENS):
        if (file.parent / name).is_file():
            try:
                said |= json_text.parse((file.parent / name).read_text("utf-8"))
            except (OSError, ValueError, TypeError) as error:
                raise UserError(f"{file.parent / name} cannot be read: {error}") from None
    tokens = {}
    for role, names in ROLES.items():
        given = said.get(f"{role}_token")
        given = given.get("content") if isinstance(given, dict) else given
        if given is not None and not (isinstance(given, str) and given in ids):
            raise UserError(f"{file} has no token {given!r}, which is named as its {role}_token")
        found = given or next((name for name in names if name in ids), None)
        if found is not None:
            tokens[role] = found
    missing = [f"{role}_token" for role in ROLES if role not in tokens and role != "unk"]
    if missing:
        raise UserError(
            f"{file} has no {', '.join(missing)}, which a model here is given: name its tokens in "
            f"{SPECIAL_TOKENS} beside it"
        )
    found = {role: ids[token] for role, token in tokens.items()}
    if len({found[r] for r in ("pad", "cls", "sep", "mask")}) < 4:
        raise UserError(
            f"{file} must have tokens of their own for padding, [CLS], [SEP] and [MASK]"
        )
    return Roles(tokens, found)


def load(file: str | Path) -> Loaded:
    """The tokenizer of a tokenizer.json. Raises UserError as `roles`, or where the library cannot read it."""
    return _load(Path(file), _state(Path(file)))


@functools.lru_cache(maxsize=2)
def _load(file: Path, state: tuple) -> Loaded:
    record = read_file(file)
    ids = ids_of(record, file)
    if (
        most := max((len(piece) for piece in ids if isinstance(piece, str)), default=0)
    ) > LONGEST_PIECE:
        raise UserError(
            f"{file} has a piece of {most:,} characters; there may be {LONGEST_PIECE:,} in one"
        )
    found = _roles(file, ids)
    try:
        tokenizer = Tokenizer.from_str(json.dumps(_with_padding_first(record, ids, found)))
        # What its pieces do not make up is an error only where it is met.
        tokenizer.encode(_UNKNOWN, add_special_tokens=False)
    except BaseException as error:
        # The library raises Exception itself, whatever it meets; and where it panics, no Exception.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise UserError(f"{file} cannot be read: {' '.join(str(error).split())[:200]}") from None
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokenizer.encode_special_tokens = True
    texts, continuation, breaks = _words(record, tokenizer, set(found.tokens.values()))
    other = {0: found.pad, found.pad: 0}
    number = {role: other.get(i, i) for role, i in found.ids.items()}
    unk = number.get("unk", -1)
    vocabulary = Vocabulary(
        0, unk, number["cls"], number["sep"], number["mask"], len(texts), continuation, breaks
    )
    return Loaded(tokenizer, vocabulary, texts)


def _with_padding_first(record: dict[str, Any], ids: dict[str, int], found: Roles) -> dict:
    """The record with the ids of padding and of the first piece exchanged, and no special token in text."""
    other = {0: found.pad, found.pad: 0}
    model = dict(record["model"])
    added = [
        {**token, "id": other.get(token["id"], token["id"])}
        | ({"special": True} if token["content"] in found.tokens.values() else {})
        for token in record.get("added_tokens") or ()
    ]
    if isinstance(model["vocab"], dict):
        # The library numbers anew what was added beyond the model's own pieces.
        model["vocab"] = {piece: other.get(i, i) for piece, i in ids.items()}
    else:
        scores = dict(model["vocab"])
        order = sorted(ids, key=ids.__getitem__)
        if [ids[piece] for piece in order] != list(range(len(order))):
            raise ValueError("its ids are not consecutive")
        order[0], order[found.pad] = order[found.pad], order[0]
        model["vocab"] = [[piece, scores.get(piece, 0.0)] for piece in order]
        unk = model.get("unk_id")
        model["unk_id"] = None if unk is None else other.get(unk, unk)
    changed = {**record, "model": model, "added_tokens": added, "post_processor": None}
    if not isinstance(model["vocab"], dict):
        changed["normalizer"] = _breaking(record.get("normalizer"), found.tokens.values())
    return changed


def _breaking(normalizer: dict | None, tokens) -> dict[str, Any]:
    """A normalizer that puts a blank into special tokens: a unigram model takes them for pieces of text."""
    parts = [normalizer] if normalizer else []
    parts += [
        {"type": "Replace", "pattern": {"String": t}, "content": f"{t[:1]} {t[1:]}"} for t in tokens
    ]
    return {"type": "Sequence", "normalizers": parts}


def _words(
    record: dict[str, Any], tokenizer: Tokenizer, special: set[str]
) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Of each id: its text; whether it goes on a word; whether what follows it begins one."""
    pieces = tokenizer.get_vocab()
    size = max(pieces.values()) + 1
    texts, continuation, breaks = [""] * size, np.zeros(size, bool), np.zeros(size, bool)
    model = record["model"]
    prefix = model.get("continuing_subword_prefix") or "##"
    bytewise = '"ByteLevel"' in json.dumps(
        [record.get(part) for part in ("pre_tokenizer", "normalizer", "decoder")]
    )
    for piece, i in pieces.items():
        if piece in special:
            continue
        if model.get("type") == "WordPiece":
            texts[i], continuation[i] = piece.removeprefix(prefix), piece.startswith(prefix)
            continue
        text = _of_bytes(piece) if bytewise else piece.replace(BLANK, " ")
        texts[i] = text.strip()
        within = text[:1].isalnum() or text[:1] == "\ufffd"
        continuation[i] = within and not UNSPACED.match(text)
        breaks[i] = bool(text) and not text[-1].isalnum() and text[-1] not in "\ufffd "
    return texts, continuation, breaks


def _of_bytes(piece: str) -> str:
    """What a piece of a byte-level vocabulary stands for; bytes that are no character alone are \ufffd."""
    codes = _bytes()
    return bytes(codes.get(c, 63) for c in piece).decode("utf-8", "replace")


@functools.cache
def _bytes() -> dict[str, int]:
    """The characters that stand for bytes in GPT-2's vocabulary and all after it (Radford et al. 2019)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in plain]
    return {chr(b): b for b in plain} | {chr(256 + n): b for n, b in enumerate(others)}


class TextEncoder:
    """Tokenizes batches of texts with offsets, blanks left out of what a piece covers.

    A piece of nothing but blanks covers nothing, where it begins.
    """

    # A part of a text may have other pieces than it has within the text.
    in_context = True

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer

    def encode(self, texts: Sequence[str]) -> Wordpieces:
        """The pieces of the texts, special tokens not included."""
        encodings = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        joined = "".join(f"{text}\n" for text in texts)
        begins = np.cumsum([0, *(len(text) + 1 for text in texts)])
        shift = np.repeat(begins[:-1], [len(each) for each in encodings])
        ids = np.array([i for each in encodings for i in each.ids], np.int32)
        offsets = np.array([o for each in encodings for o in each.offsets], np.int64).reshape(-1, 2)
        starts, stops = trimmed(joined, offsets + shift[:, None]).T
        return Wordpieces(joined, begins, ids, starts, stops)


def trimmed(text: str, offsets: np.ndarray) -> np.ndarray:
    """Character offsets [n,2] without the blanks at either end; of blanks alone, empty where they begin."""
    blank = np.array([c.isspace() for c in text] + [True], bool)
    place = np.arange(len(blank))
    # Of each place the next one that is not blank, and the end of the last one before it.
    after = np.minimum.accumulate(np.where(blank, len(blank), place)[::-1])[::-1]
    before = np.append(0, np.maximum.accumulate(np.where(blank, 0, place + 1)))
    start, stop = after[offsets[:, 0]], before[offsets[:, 1]]
    empty = stop <= start
    start, stop = (np.where(empty, offsets[:, 0], x) for x in (start, stop))
    return np.stack([np.maximum.accumulate(start) if len(start) else start, stop], axis=1)
