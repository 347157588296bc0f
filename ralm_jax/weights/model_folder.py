"""What the JSON files in a model's folder say: its modules, its sizes, how long its texts are."""

from pathlib import Path
from typing import Any, TypeGuard

from ralm_jax import json_text
from ralm_jax.data.tokenizer_settings import SETTINGS
from ralm_jax.errors import UserError
from ralm_jax.models.config import EncoderConfig
from ralm_jax.names import beneath

CONFIG, MODULES = "config.json", "modules.json"


def modules(folder: Path) -> list[tuple[str, Path]]:
    """Kind and folder of each module of a sentence-transformers model; of another model none."""
    file = folder / MODULES
    if not file.is_file():
        return []
    try:
        listed = [
            (str(m["type"]).rsplit(".", 1)[-1], beneath(folder, m["path"], file))
            for m in _json(file)
        ]
    except (KeyError, TypeError):
        listed = []
    if not listed:
        raise UserError(f"{file} must be a list of modules, each with a type and a path")
    return listed


def saved_class(record: dict[str, Any]) -> str | None:
    """The class that a config.json says the model was saved from."""
    classes = record.get("architectures")
    return str(classes[0]) if isinstance(classes, list) and classes else None


def encoder_folder(folder: Path) -> Path:
    """Where the config, the weights and the tokenizer of a model's encoder are.

    That is the model's folder, or the one that modules.json gives for its first module: earlier releases of
    sentence-transformers made a folder 0_Transformer for it, or 0_BERT.
    """
    for _, path in modules(folder)[:1]:
        return path
    return folder


def is_count(value: Any) -> TypeGuard[int]:
    """Whether a value of a JSON file is a positive whole number."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def length_limit(folder: Path, c: EncoderConfig) -> int:
    """Wordpieces of the longest text that the model's tokenizer lets through."""
    file = folder / SETTINGS
    most = read_object(file).get("model_max_length") if file.is_file() else None
    return min(c.positions, most) if is_count(most) else c.positions


def _json(file: Path) -> Any:
    try:
        return json_text.parse(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read: {error}") from None


def read_object(file: Path) -> dict[str, Any]:
    """A JSON object. Raises UserError where the file cannot be read, or is anything else."""
    record = _json(file)
    if not isinstance(record, dict):
        raise UserError(f"{file} must be a JSON object")
    return record
