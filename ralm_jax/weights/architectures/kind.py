"""What is to be said of a kind of encoder, so that it can be read and written."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ralm_jax.errors import UserError
from ralm_jax.models.config import EncoderConfig, Family
from ralm_jax.weights.layout import Slot
from ralm_jax.weights.model_folder import is_count
from ralm_jax.weights.tensors import Tensors

Record = dict[str, Any]
# (sizes, names under, leaves under) -> tensors; and for the head (sizes, leaves under).
Trunk = Callable[[EncoderConfig, str, tuple[str, ...]], Iterable[Slot]]
Head = Callable[[EncoderConfig, tuple[str, ...]], Iterable[Slot]]

# The tanh form and the exact one; another activation is another model.
ACTIVATIONS = {"gelu": False, "gelu_python": False, "gelu_new": True, "gelu_pytorch_tanh": True}


@dataclass(frozen=True)
class Architecture:
    """A kind of encoder, and the names that transformers has for its parts."""

    # Of ours, which is the value of model_type too.
    family: Family
    # The classes of the encoder and of its masked LM.
    encoder: str
    masked: str
    # What the names of the encoder's tensors begin with in its masked LM.
    prefix: str
    # Raises UserError for what a config.json says that makes another encoder.
    config: Callable[[Path, Record], EncoderConfig]
    record: Callable[[EncoderConfig], Record]
    trunk: Trunk
    head: Head
    # What names of the head begin with; its decoder, whose matrix is that of the words in the trunk.
    head_begins: str
    words: str
    decoder: str
    # Whether transformers' encoder has a pooler, in the tensors `pooler.dense`.
    pooler: bool = False
    # From other names that its tensors go by.
    former: Callable[[Tensors], Tensors] = lambda tensors: tensors


# A config that claims more is no config, and names for their tensors would fill the memory.
MOST_LAYERS = 1000


def size(file: Path, record: Record, name: str) -> int:
    """A size in a config.json. Raises UserError where it is not there, or is none."""
    if name not in record:
        raise UserError(f"{file} has no {name}; is it the config of such a model?")
    if not is_count(record[name]):
        raise UserError(f"{file}: {name} must be a positive whole number, not {record[name]!r}")
    return record[name]


def number(file: Path, record: Record, name: str, default: float) -> float:
    """A number in a config.json. Raises UserError where it is none."""
    found = record.get(name, default)
    if isinstance(found, bool) or not isinstance(found, int | float) or not 0 < found < 1e30:
        raise UserError(f"{file}: {name} must be a positive number, not {found!r}")
    return float(found)


def tanh_form(file: Path, record: Record, name: str) -> bool:
    """Whether GELU is computed by tanh. Raises UserError for another activation."""
    act = record.get(name, "gelu")
    if not isinstance(act, str) or act not in ACTIVATIONS:
        raise UserError(f"{file}: {name} {act!r} cannot be read; {', '.join(ACTIVATIONS)} can")
    return ACTIVATIONS[act]


def gelu_name(c: EncoderConfig) -> str:
    return "gelu_new" if c.gelu_approximate else "gelu"


def only(file: Path, record: Record, **values: Any) -> None:
    """Raises UserError where a config.json has another value than the one that is read; None is no value."""
    for name, value in values.items():
        found = record.get(name)
        if found is not None and found != value:
            raise UserError(f"{file}: {name} must be {value}, not {found!r}")


def sizes(file: Path, record: Record, hidden: str, layers: str, heads: str, wide: str) -> Record:
    """The sizes that every kind has, under our names, found under its own.

    Raises UserError where one is missing or the heads do not divide the width.
    """
    width, count = size(file, record, hidden), size(file, record, heads)
    if (depth := size(file, record, layers)) > MOST_LAYERS:
        raise UserError(
            f"{file}: {layers} is {depth:,}, and no model has more than {MOST_LAYERS:,}"
        )
    if width % count:
        raise UserError(f"{file}: {hidden} {width} is no multiple of {heads} {count}")
    return {
        "vocab_size": size(file, record, "vocab_size"),
        "hidden": width,
        "layers": depth,
        "heads": count,
        "intermediate": size(file, record, wide),
        "init_stddev": record.get("initializer_range", 0.02),
    }
