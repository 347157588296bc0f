"""What the JSON files in a model's folder say: its modules, its sizes, how long its texts are."""

import json
from pathlib import Path
from typing import Any, TypeGuard

from ralm_jax.data.tokenizer_settings import SETTINGS
from ralm_jax.errors import UserError
from ralm_jax.models.config import EncoderConfig

CONFIG, MODULES = "config.json", "modules.json"
# The tanh form and the exact one; another activation is another model.
ACTIVATIONS = {"gelu": False, "gelu_python": False, "gelu_new": True, "gelu_pytorch_tanh": True}


def modules(folder: Path) -> list[tuple[str, Path]]:
    """Kind and folder of each module of a sentence-transformers model; of another model none."""
    file = folder / MODULES
    if not file.is_file():
        return []
    try:
        listed = [(str(m["type"]).rsplit(".", 1)[-1], folder / m["path"]) for m in _json(file)]
    except (KeyError, TypeError):
        listed = []
    if not listed:
        raise UserError(f"{file} must be a list of modules, each with a type and a path")
    return listed


def encoder_folder(folder: Path) -> Path:
    """Where the config, the weights and the tokenizer of a model's encoder are.

    That is the model's folder, or the one that modules.json gives for its first module: earlier releases of
    sentence-transformers made a folder 0_Transformer for it, or 0_BERT.
    """
    for _, path in modules(folder)[:1]:
        return path
    return folder


def encoder_config(folder: Path) -> EncoderConfig:
    """The sizes of a BERT encoder by its config.json.

    Raises UserError for what is not BERT: another kind, activation or way of telling positions.
    """
    file = folder / CONFIG
    record = read_object(file)
    kind, act = record.get("model_type"), record.get("hidden_act", "gelu")
    if kind not in ("bert", "realm"):
        raise UserError(f"{file}: model_type {kind!r} cannot be read; bert and realm can")
    if act not in ACTIVATIONS:
        raise UserError(f"{file}: hidden_act {act!r} cannot be read; {', '.join(ACTIVATIONS)} can")
    if record.get("position_embedding_type", "absolute") != "absolute":
        raise UserError(f"{file}: position_embedding_type must be absolute")
    if record.get("type_vocab_size", 2) != 2:
        raise UserError(f"{file}: type_vocab_size must be 2, not {record['type_vocab_size']}")
    hidden, heads = _size(file, record, "hidden_size"), _size(file, record, "num_attention_heads")
    if hidden % heads:
        raise UserError(
            f"{file}: hidden_size {hidden} is no multiple of num_attention_heads {heads}"
        )
    return EncoderConfig(
        vocab_size=_size(file, record, "vocab_size"),
        hidden=hidden,
        layers=_size(file, record, "num_hidden_layers"),
        heads=heads,
        intermediate=_size(file, record, "intermediate_size"),
        positions=_size(file, record, "max_position_embeddings"),
        dropout=record.get("hidden_dropout_prob", 0.1),
        attention_dropout=record.get("attention_probs_dropout_prob", 0.1),
        layer_norm_eps=record.get("layer_norm_eps", 1e-12),
        gelu_approximate=ACTIVATIONS[act],
        init_stddev=record.get("initializer_range", 0.02),
    )


def _size(file: Path, record: dict[str, Any], name: str) -> int:
    if name not in record:
        raise UserError(f"{file} has no {name}; is it the config of a BERT?")
    if not is_count(record[name]):
        raise UserError(f"{file}: {name} must be a positive whole number, not {record[name]!r}")
    return record[name]


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
        return json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read: {error}") from None


def read_object(file: Path) -> dict[str, Any]:
    """A JSON object. Raises UserError where the file cannot be read, or is anything else."""
    record = _json(file)
    if not isinstance(record, dict):
        raise UserError(f"{file} must be a JSON object")
    return record
