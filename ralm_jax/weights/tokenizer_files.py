"""The tokenizer of a released model: its wordpieces, one for each word embedding, and its settings.

Read are vocab.txt, tokenizer.json, tokenizer_config.json and added_tokens.json, in whichever combination they
come. A tokenizer that would cut texts in another way than BERT's is refused.
"""

import itertools
import json
from pathlib import Path
from typing import Any, NamedTuple

from ralm_jax.data.tokenizer import (
    CONTINUATION,
    SPECIALS,
    UNK,
    VOCABULARY,
    normalizer_of,
    read_vocabulary,
)
from ralm_jax.data.tokenizer_settings import (
    SETTINGS,
    TokenizerSettings,
    config_settings,
    is_generic,
)
from ralm_jax.errors import UserError
from ralm_jax.weights.model_folder import read_object

FAST, ADDED = "tokenizer.json", "added_tokens.json"
LINE_ENDS = {"\r", "\n"}
SPECIAL_NAMES = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")


class Found(NamedTuple):
    """A tokenizer, and what a user should know about it."""

    pieces: list[str]
    settings: TokenizerSettings
    notes: list[str]


def read(folder: Path, rows: int) -> Found:
    """The tokenizer in a model's folder, for a model with `rows` word embeddings.

    Rows that no wordpiece belongs to, as where embeddings are padded to a multiple, get the names of
    unused pieces.

    Raises UserError: no vocabulary, a tokenizer that is not BERT's, or more wordpieces than rows.
    """
    try:
        return _found(folder, rows)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder}: the tokenizer's files cannot be read: {error!r}") from None


def _found(folder: Path, rows: int) -> Found:
    config = _read(folder / SETTINGS) or {}
    fast = _read(folder / FAST)
    _check_class(folder, config, fast)
    _check_specials(folder / SETTINGS, config)
    settings, notes = _settings(folder, config, fast)
    ids, source = _base(folder, fast, rows)
    pieces = {i: piece for piece, i in ids.items()}
    added = {
        i: token
        for i, token in _added(folder, config, fast).items()
        if i not in pieces and token not in ids and not LINE_ENDS & set(token)
    }
    pieces |= added
    if max(pieces, default=0) >= rows:
        raise UserError(
            f"{source} has {max(pieces) + 1:,} wordpieces, more than the {rows:,} word embeddings of "
            "the model; give the vocabulary that the model was trained with"
        )
    missing = [token for token in SPECIALS if token not in ids]
    if missing or ids[SPECIALS[0]] != 0:
        raise UserError(f"{source} must begin with [PAD] and contain {', '.join(SPECIALS)}")
    notes += _about_added(added, settings) + _about_padding(source, len(pieces), rows)
    unused = (f"[unused{n}]" for n in itertools.count())
    free = (name for name in unused if name not in ids)
    return Found([pieces[i] if i in pieces else next(free) for i in range(rows)], settings, notes)


def _read(file: Path) -> dict[str, Any] | None:
    return read_object(file) if file.is_file() else None


def _check_class(folder: Path, config: dict, fast: dict | None) -> None:
    """The class may stand in the model's own config; a generic one needs tokenizer.json."""
    kind = config.get("tokenizer_class")
    if kind is None:
        file = folder / "config.json"
        kind = (_read(file) or {}).get("tokenizer_class")
        config_settings({"tokenizer_class": kind}, file)
    if is_generic(kind) and fast is None:
        raise UserError(f"{folder}: a {kind} needs the file {FAST}, which is not there")


def _check_specials(file: Path, config: dict) -> None:
    for name, wanted in zip(SPECIAL_NAMES, SPECIALS, strict=True):
        token = config.get(name)
        token = token.get("content") if isinstance(token, dict) else token
        if token not in (None, wanted):
            raise UserError(f"{file}: the {name} is {token!r}; only {wanted} can be read")


def _settings(folder: Path, config: dict, fast: dict | None) -> tuple[TokenizerSettings, list[str]]:
    """What tokenizer_config.json says, as in transformers; tokenizer.json says what that leaves out.

    The generic classes of transformers go by tokenizer.json alone.
    """
    given = config_settings(config, folder / SETTINGS)
    if fast is None:
        return TokenizerSettings(**given), []
    there = _fast_settings(fast, folder / FAST)
    if is_generic(config.get("tokenizer_class")):
        return TokenizerSettings(**there), []
    settings = TokenizerSettings(**{**there, **given})
    if settings == TokenizerSettings(**there):
        return settings, []
    return settings, [f"{FAST} and {SETTINGS} disagree, and {SETTINGS} is followed: {settings}"]


def _fast_settings(fast: dict, file: Path) -> dict[str, Any]:
    """The settings that tokenizer.json gives, under our names."""
    model, pre = fast.get("model") or {}, (fast.get("pre_tokenizer") or {}).get("type")
    if model.get("type") != "WordPiece":
        raise UserError(f"{file}: a {model.get('type')} tokenizer cannot be read; WordPiece can")
    wanted = {
        "continuing_subword_prefix": CONTINUATION,
        "unk_token": UNK,
        "max_input_chars_per_word": 100,
    }
    for name, value in wanted.items():
        if model.get(name, value) != value:
            raise UserError(f"{file}: {name} is {model[name]!r}; only {value!r} can be read")
    if pre != "BertPreTokenizer":
        raise UserError(f"{file}: the pre_tokenizer {pre} cannot be read; BertPreTokenizer can")
    normalizer = fast.get("normalizer") or {}
    parts = normalizer.get("normalizers") if normalizer.get("type") == "Sequence" else [normalizer]
    kinds = [part.get("type") for part in parts or []]
    # sentence-transformers puts Lowercase before it where its own do_lower_case is set.
    if kinds not in (["BertNormalizer"], ["Lowercase", "BertNormalizer"]):
        raise UserError(
            f"{file}: the normalizer {' + '.join(map(str, kinds))} cannot be read; BertNormalizer can"
        )
    last = (parts or [])[-1]
    if not last.get("clean_text", True):
        raise UserError(f"{file}: clean_text false cannot be read")
    settings = TokenizerSettings(
        last.get("lowercase", True),
        last.get("strip_accents"),
        last.get("handle_chinese_chars", True),
    )
    return vars(settings.lowered() if len(kinds) > 1 else settings)


def _base(folder: Path, fast: dict | None, rows: int) -> tuple[dict[str, int], Path]:
    """Wordpieces and their ids, added tokens aside, and the file they are from."""
    fast_pieces: dict[str, int] = ((fast or {}).get("model") or {}).get("vocab") or {}
    if not (folder / VOCABULARY).is_file():
        if not fast_pieces:
            raise UserError(f"{folder} contains neither {VOCABULARY} nor {FAST}")
        # A piece with a line end in it has no place in a vocab.txt, and no text is cut into it.
        return {p: i for p, i in fast_pieces.items() if not LINE_ENDS & set(p)}, folder / FAST
    lines = read_vocabulary(folder / VOCABULARY)
    while len(lines) > rows and not lines[-1]:
        lines.pop()
    # Of a piece that stands there twice the last one counts, as in transformers.
    ids = {piece: i for i, piece in enumerate(lines)}
    for piece in ids.keys() & fast_pieces.keys():
        if ids[piece] != fast_pieces[piece]:
            raise UserError(
                f"{folder}: the wordpiece {piece!r} is {ids[piece]} in {VOCABULARY} and "
                f"{fast_pieces[piece]} in {FAST}; remove the file that the model was not trained with"
            )
    return ids, folder / VOCABULARY


def _added(folder: Path, config: dict, fast: dict | None) -> dict[int, str]:
    """Tokens that were added to a vocabulary, by id."""
    found = {int(token["id"]): token["content"] for token in (fast or {}).get("added_tokens") or ()}
    decoder = config.get("added_tokens_decoder") or {}
    found |= {int(i): token["content"] for i, token in decoder.items()}
    found |= {int(i): token for token, i in (_read(folder / ADDED) or {}).items()}
    return dict(sorted(found.items()))


def _about_added(added: dict[int, str], settings: TokenizerSettings) -> list[str]:
    """Added tokens are matched before a text is cut; here a text is cut into words first."""
    normalizer, pre_tokenizer = normalizer_of(settings)
    words = {
        token: [word for word, _ in pre_tokenizer.pre_tokenize_str(normalizer.normalize_str(token))]
        for token in added.values()
    }
    never = [
        json.dumps(token, ensure_ascii=False) for token, cut in words.items() if cut != [token]
    ]
    if not never:
        return []
    names = ", ".join(never[:5]) + (", ..." if len(never) > 5 else "")
    return [f"added tokens keep their embeddings, and no text is cut into them here: {names}"]


def _about_padding(source: Path, pieces: int, rows: int) -> list[str]:
    if pieces == rows:
        return []
    return [
        f"{source} has {pieces:,} wordpieces for {rows:,} word embeddings: the other {rows - pieces:,} "
        "are never used and are named [unusedN]"
    ]
