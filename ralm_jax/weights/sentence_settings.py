"""The settings of a sentence-transformers model: similarity, prompts, lengths of texts, lower case."""

from pathlib import Path
from typing import Any

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


def prompts(folder: Path) -> dict[str, Any]:
    """What the model puts before texts, as a run records it; nothing where all prompts are empty."""
    options = _settings(folder)
    found = options.get("prompts") or {}
    if not isinstance(found, dict):
        raise UserError(f"{folder / SETTINGS}: the prompts must be an object of names and texts")
    named = {name: text for name, text in found.items() if text}
    default = options.get("default_prompt_name")
    return ({"prompts": named} if named else {}) | (
        {"default_prompt_name": default} if default in named else {}
    )


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
