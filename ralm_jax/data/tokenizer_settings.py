"""What BERT's tokenizer does to a text before it cuts it into wordpieces, and the file that says so.

Models, runs and exports keep these settings in `tokenizer_config.json`, under the names that transformers
gave them. A corpus keeps them in its manifest.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from ralm_jax import json_text
from ralm_jax.errors import UserError

SETTINGS = "tokenizer_config.json"
# Our names, and those of transformers.
NAMES = {
    "lowercase": "do_lower_case",
    "strip_accents": "strip_accents",
    "chinese_characters": "tokenize_chinese_chars",
}
# Tokenizers of transformers that cut a text exactly as BERT's does, each of them also with the ending "Fast".
LIKE_BERT = {
    "BertTokenizer",
    "BertTokenizerLegacy",
    "DistilBertTokenizer",
    "DPRContextEncoderTokenizer",
    "DPRQuestionEncoderTokenizer",
    "DPRReaderTokenizer",
    "ElectraTokenizer",
    "MobileBertTokenizer",
    "RealmTokenizer",
    "RetriBertTokenizer",
}
# Tokenizers that do whatever the file tokenizer.json beside them says.
GENERIC = {"PreTrainedTokenizer", "TokenizersBackend"}
# Settings that would make another tokenizer of BERT's, and the values that leave it as it is.
UNCHANGED: dict[str, tuple] = {
    "do_basic_tokenize": (None, True),
    "never_split": (None, [], False),
    "word_tokenizer_type": (None, "basic"),
    "subword_tokenizer_type": (None, "wordpiece"),
    "do_word_tokenize": (None, True),
    "do_subword_tokenize": (None, True),
    "mecab_kwargs": (None, {}),
    "sudachi_kwargs": (None, {}),
    "jumanpp_kwargs": (None, {}),
    "wordpieces_prefix": (None, "##"),
    "clean_text": (None, True),
}


@dataclasses.dataclass(frozen=True)
class TokenizerSettings:
    """The settings of BERT's normalizer, with BERT's defaults.

    `strip_accents` None means as BERT does: accents go where text is lower-cased. A value that says the
    same is replaced by None, so that settings are equal if and only if they do the same.
    `chinese_characters` makes a word of every Chinese character.
    """

    lowercase: bool = True
    strip_accents: bool | None = None
    chinese_characters: bool = True

    def __post_init__(self) -> None:
        if self.strip_accents == self.lowercase:
            object.__setattr__(self, "strip_accents", None)

    def __str__(self) -> str:
        return ", ".join(f"{k} {json.dumps(v)}" for k, v in self.as_config().items())

    @property
    def strips_accents(self) -> bool:
        """What `strip_accents` comes to."""
        return self.lowercase if self.strip_accents is None else self.strip_accents

    def lowered(self) -> Self:
        """For texts that are lower-cased before this tokenizer takes them: accents stay as they are here."""
        return dataclasses.replace(self, lowercase=True, strip_accents=self.strips_accents)

    def as_record(self) -> dict[str, bool]:
        """For a manifest: `lowercase`, and whatever else is not BERT's default."""
        default = TokenizerSettings(self.lowercase)
        return {
            name: value
            for name, value in dataclasses.asdict(self).items()
            if name == "lowercase" or value != getattr(default, name)
        }

    def as_config(self) -> dict[str, bool]:
        """The same for a `tokenizer_config.json`."""
        return {NAMES[name]: value for name, value in self.as_record().items()}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """Reads `as_record`; whatever is missing, as in a corpus of an earlier release, is BERT's default."""
        return cls(**{name: record[name] for name in NAMES if name in record})


BERT = TokenizerSettings()


def config_settings(config: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """The settings that a `tokenizer_config.json` gives outright, under our names.

    Raises UserError that names `file`: another tokenizer than BERT's, or a value that is not true, false or
    null.
    """
    kind = config.get("tokenizer_class")
    if kind is not None and not (like_bert(kind) or is_generic(kind)):
        raise UserError(
            f"{file}: the tokenizer_class {kind} cannot be read; only BERT's tokenizer can"
        )
    for name, values in UNCHANGED.items():
        if config.get(name) not in values:
            raise UserError(f"{file}: {name} {json.dumps(config[name])} cannot be read")
    found = {ours: config[theirs] for ours, theirs in NAMES.items() if theirs in config}
    for name, value in found.items():
        if not isinstance(value, bool) and not (name == "strip_accents" and value is None):
            raise UserError(f"{file}: {NAMES[name]} must be true or false, not {json.dumps(value)}")
    return found


def read_settings(file: Path) -> TokenizerSettings:
    """The settings in a `tokenizer_config.json`.

    Raises UserError: the file cannot be read, or is of another tokenizer than BERT's.
    """
    try:
        config = json_text.parse(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read ({error}); is it the folder of a run?") from None
    if not isinstance(config, dict):
        raise UserError(f"{file} must be a JSON object")
    return TokenizerSettings(**config_settings(config, file))


def like_bert(kind: Any) -> bool:
    """Whether a class of transformers cuts texts as BERT's tokenizer does."""
    return isinstance(kind, str) and kind.removesuffix("Fast") in LIKE_BERT


def is_generic(kind: Any) -> bool:
    """Whether a class of transformers does what tokenizer.json says."""
    return isinstance(kind, str) and kind.removesuffix("Fast") in GENERIC
