"""The tokenizer of a released model: its wordpieces, one for each word embedding, and its settings.

Of BERT's kind are read vocab.txt, tokenizer.json, tokenizer_config.json and added_tokens.json, in whichever
combination they come. Any other is taken as it is where there is a tokenizer.json, and refused otherwise.
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
    write_vocabulary,
)
from ralm_jax.data.tokenizer_json import FAST, ids_of, load, roles
from ralm_jax.data.tokenizer_settings import (
    BERT,
    SETTINGS,
    TokenizerSettings,
    config_settings,
    is_generic,
    like_bert,
)
from ralm_jax.data.tokenizing import keep
from ralm_jax.errors import UserError
from ralm_jax.weights.model_folder import read_object

ADDED = "added_tokens.json"
LINE_ENDS = {"\r", "\n"}
# What BERT's kind has in the model of a tokenizer.json, and has where nothing is said.
WORDPIECE = {
    "continuing_subword_prefix": CONTINUATION,
    "unk_token": UNK,
    "max_input_chars_per_word": 100,
}
SPECIAL_NAMES = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")


class Found(NamedTuple):
    """A tokenizer, and what a user should know about it."""

    # Of BERT's kind; of a tokenizer that is taken as it is, which has its own, only their number counts.
    pieces: list[str]
    settings: TokenizerSettings
    notes: list[str]
    # The file that is taken as it is, and the id of padding in it.
    file: Path | None = None
    pad: int = 0

    def write(self, folder: Path, max_length: int) -> None:
        """Puts it into a run; max_length: wordpieces of a text."""
        if self.file is not None:
            keep(self.file.parent, folder)
        else:
            write_vocabulary(folder, self.pieces, self.settings, max_length)


def read(folder: Path, rows: int) -> Found:
    """The tokenizer in a model's folder, for a model with `rows` word embeddings.

    Rows that no wordpiece belongs to, as where embeddings are padded to a multiple, get the names of
    unused pieces.

    Raises UserError: no vocabulary, a tokenizer that is not BERT's without tokenizer.json, one that lacks a
    special token, or more wordpieces than rows.
    """
    try:
        config, fast = _read(folder / SETTINGS) or {}, _read(folder / FAST)
        if "AutoTokenizer" in (config.get("auto_map") or {}):
            raise UserError(
                f"{folder / SETTINGS}: the tokenizer needs code of its own (auto_map), and none is run here"
            )
        if fast is not None and not _is_berts(config, fast):
            return _as_it_is(folder / FAST, rows)
        return _found(folder, rows, config, fast)
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{folder}: the tokenizer's files cannot be read: {error!r}") from None


def _is_berts(config: dict, fast: dict) -> bool:
    """Whether a vocab.txt and settings of BERT's tokenizer would say all that a tokenizer.json says."""
    kind = config.get("tokenizer_class")
    if not (kind is None or like_bert(kind) or is_generic(kind)):
        return False
    model, pre = fast.get("model") or {}, fast.get("pre_tokenizer") or {}
    if model.get("type") != "WordPiece" or not _has_specials(fast):
        return False
    kinds = [part.get("type") for part in _normalizers(fast)]
    return (
        all(
            _token(config, name) in (None, s)
            for name, s in zip(SPECIAL_NAMES, SPECIALS, strict=True)
        )
        and all(model.get(name, value) == value for name, value in WORDPIECE.items())
        and pre.get("type") == "BertPreTokenizer"
        # sentence-transformers puts Lowercase before it where its own do_lower_case is set.
        and kinds in (["BertNormalizer"], ["Lowercase", "BertNormalizer"])
        and _normalizers(fast)[-1].get("clean_text", True)
    )


def _has_specials(fast: dict) -> bool:
    ids = ids_of(fast, Path(FAST))
    return all(token in ids for token in SPECIALS) and ids[SPECIALS[0]] == 0


def _normalizers(fast: dict) -> list[dict]:
    normalizer = fast.get("normalizer") or {}
    return normalizer["normalizers"] if normalizer.get("type") == "Sequence" else [normalizer]


def _token(config: dict, name: str) -> str | None:
    token = config.get(name)
    return token.get("content") if isinstance(token, dict) else token


def _as_it_is(file: Path, rows: int) -> Found:
    """Raises UserError where it has no place in a model of so many rows."""
    found, loaded = roles(file), load(file)
    size = loaded.vocabulary.size
    if size > rows:
        raise UserError(
            f"{file} has {size:,} tokens, more than the {rows:,} word embeddings of the model; give the "
            "tokenizer that the model was trained with"
        )
    return Found(loaded.texts, BERT, _about_padding(file, size, rows), file, found.pad)


def _found(folder: Path, rows: int, config: dict, fast: dict | None) -> Found:
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
        token = _token(config, name)
        if token not in (None, wanted):
            raise UserError(f"{file}: the {name} is {token!r}; only {wanted} can be read")


def _settings(folder: Path, config: dict, fast: dict | None) -> tuple[TokenizerSettings, list[str]]:
    """What tokenizer_config.json says, as in transformers; tokenizer.json says what that leaves out.

    The generic classes of transformers go by tokenizer.json alone.
    """
    given = config_settings(config, folder / SETTINGS)
    if fast is None:
        return TokenizerSettings(**given), []
    there = _fast_settings(fast)
    if is_generic(config.get("tokenizer_class")):
        return TokenizerSettings(**there), []
    settings = TokenizerSettings(**{**there, **given})
    if settings == TokenizerSettings(**there):
        return settings, []
    return settings, [f"{FAST} and {SETTINGS} disagree, and {SETTINGS} is followed: {settings}"]


def _fast_settings(fast: dict) -> dict[str, Any]:
    """The settings that tokenizer.json of BERT's kind gives, under our names."""
    parts = _normalizers(fast)
    last = parts[-1]
    settings = TokenizerSettings(
        last.get("lowercase", True),
        last.get("strip_accents"),
        last.get("handle_chinese_chars", True),
    )
    return vars(settings.lowered() if len(parts) > 1 else settings)


def _base(folder: Path, fast: dict | None, rows: int) -> tuple[dict[str, int], Path]:
    """Wordpieces and their ids, added tokens aside, and the file they are from."""
    fast_pieces: dict[str, int] = ((fast or {}).get("model") or {}).get("vocab") or {}
    if not (folder / VOCABULARY).is_file():
        if not fast_pieces:
            raise UserError(
                f"{folder} contains neither {VOCABULARY} nor {FAST}{_how_to_convert(folder)}"
            )
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


def _how_to_convert(folder: Path) -> str:
    """What a user may do who has a tokenizer in another form: sentencepiece's, or BPE's two files."""
    others = [*sorted(folder.glob("*.model")), folder / "merges.txt"]
    there = next((file.name for file in others if file.is_file()), None)
    if there is None:
        return ""
    load = f"transformers.AutoTokenizer.from_pretrained('{folder}')"
    command = f"import transformers; {load}.save_pretrained('{folder}')"
    return f' but {there}: make a {FAST} of it with: python -c "{command}"'


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
