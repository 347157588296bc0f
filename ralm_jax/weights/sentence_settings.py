"""The settings of a sentence-transformers model: similarity, prompts, lengths of texts, lower case."""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from ralm_jax.data.tokenizer_json import load
from ralm_jax.data.tokenizer_settings import TokenizerSettings
from ralm_jax.errors import UserError
from ralm_jax.models.config import EncoderConfig
from ralm_jax.weights.model_folder import is_count, length_limit, modules, read_object

SETTINGS = "config_sentence_transformers.json"


def _settings(folder: Path) -> dict[str, Any]:
    return read_object(folder / SETTINGS) if (folder / SETTINGS).is_file() else {}


def similarity(folder: Path) -> str:
    """How vectors are compared; by cosine where nothing is said."""
    return _settings(folder).get("similarity_fn_name") or "cosine"


class Prompts(NamedTuple):
    """What a model puts before texts, by name; and the names of those for questions and for passages.

    said: whose word that is, where it is not that of its files.
    """

    texts: dict[str, str]
    query: str | None
    passage: str | None
    said: str = ""


def prompts(folder: Path) -> Prompts:
    """The prompts that are not empty. Those used are the ones of `encode_query` and `encode_document`.

    Raises UserError where they are no texts.
    """
    options = _settings(folder)
    found = options.get("prompts") or {}
    if not (isinstance(found, dict) and all(isinstance(text, str) for text in found.values())):
        raise UserError(f"{folder / SETTINGS}: the prompts must be an object of names and texts")
    named = {name: text for name, text in found.items() if text}

    def first(*names: str) -> str | None:
        # An empty prompt of that name is meant to be empty.
        given = next((name for name in names if name in found), options.get("default_prompt_name"))
        return given if isinstance(given, str) and given in named else None

    return Prompts(named, first("query"), first("document", "passage", "corpus"))


# What cards say is put before questions and before passages, of models whose files do not say it.
_QUESTION = "Represent this sentence for searching relevant passages: "
_CARDS = {
    r"(multilingual-)?e5-(small|base|large)(-v2|-unsupervised)?": ("query: ", "passage: "),
    r"bge-(small|base|large)-en(-v1\.5)?": (_QUESTION, ""),
    r"snowflake-arctic-embed-(xs|s|m|l)|mxbai-embed-large-v1": (_QUESTION, ""),
    r"nomic-embed-text-v1(\.5)?": ("search_query: ", "search_document: "),
}


def of_card(name: str) -> Prompts | None:
    """The prompts that the card of a model of this name asks for; None of a model that is not known for any.

    >>> of_card("intfloat/e5-small-v2").texts
    {'query': 'query: ', 'passage': 'passage: '}
    """
    last = name.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1].lower()
    found = next((texts for known, texts in _CARDS.items() if re.fullmatch(known, last)), None)
    if found is None:
        return None
    said = (
        f"the files of {last} name no prompts, its card does: "
        f"{' and '.join(repr(text) for text in found if text)}; to import it with others, give "
        "--query-prompt and --passage-prompt"
    )
    return of_texts(*found)._replace(said=said)


def of_texts(query: str, passage: str) -> Prompts:
    """The two as prompts; an empty one is none."""
    named = {name: text for name, text in (("query", query), ("passage", passage)) if text}
    return Prompts(named, "query" if query else None, "passage" if passage else None)


def write(folder: Path, similarity_fn: str, query: str, passage: str) -> None:
    """Writes the settings of a model whose texts begin with prompts, which may be empty."""
    settings = {"similarity_fn_name": similarity_fn, "prompts": {}}
    if query or passage:
        settings["prompts"] = {"query": query, "document": passage}
    (folder / SETTINGS).write_text(json.dumps(settings, indent=1) + "\n", "utf-8")


def _encoder_settings(folder: Path) -> tuple[str, dict[str, Any], Path]:
    """The kind of the first module, what sentence_bert_config.json says of it, and its folder."""
    kind, path = modules(folder)[0]
    files = sorted(path.glob("sentence_*_config.json"))
    return kind, read_object(files[0]) if files else {}, path


def text_lengths(folder: Path, c: EncoderConfig) -> tuple[int, int]:
    """Wordpieces of the longest question and of the longest passage."""
    kind, options, path = _encoder_settings(folder)
    most = options.get("max_seq_length")
    if most is None:
        most = length_limit(path, c)
    elif not is_count(most):
        raise UserError(f"{path}: max_seq_length must be a positive whole number, not {most!r}")
    elif kind == "BERT":
        # The earliest releases did not count [CLS] and [SEP].
        most += 2
    lengths = [options.get(name) for name in ("query_length", "document_length")]
    query, passage = (min(n, most) if is_count(n) else most for n in lengths)
    return min(query, c.positions), min(passage, c.positions)


def check_case(folder: Path, file: Path) -> None:
    """Raises UserError where texts are to be lower-cased before a tokenizer.json that keeps capitals."""
    _, options, path = _encoder_settings(folder)
    normalizer = load(file).tokenizer.normalizer
    if options.get("do_lower_case") and "a" != (normalizer and normalizer.normalize_str("A")):
        raise UserError(
            f"{path}: do_lower_case is set, and {file.name}, which is taken as it is, keeps capitals; put a "
            "Lowercase normalizer into it"
        )


def with_lower_case(folder: Path, settings: TokenizerSettings) -> TokenizerSettings:
    """The settings of the model's tokenizer, after what its first module does to a text.

    A `Transformer` may lower-case texts before they are tokenized. `BERT`, which came before it, set its
    tokenizer instead, and that strips accents too.
    """
    kind, options, _ = _encoder_settings(folder)
    lower = options.get("do_lower_case")
    if kind == "BERT" and isinstance(lower, bool):
        return TokenizerSettings(lower, settings.strip_accents, settings.chinese_characters)
    return settings.lowered() if lower else settings
