"""Which kinds of encoders there are, and which of them a folder has."""

import dataclasses
from pathlib import Path

from ralm_jax.errors import UserError
from ralm_jax.models.config import EncoderConfig
from ralm_jax.weights.architectures.bert import BERT, ROBERTA, XLM_ROBERTA
from ralm_jax.weights.architectures.distilbert import DISTILBERT
from ralm_jax.weights.architectures.kind import Architecture
from ralm_jax.weights.architectures.modernbert import MODERNBERT
from ralm_jax.weights.architectures.mpnet import MPNET
from ralm_jax.weights.architectures.nomic import NOMIC_BERT
from ralm_jax.weights.model_folder import CONFIG, read_object

KNOWN = (BERT, DISTILBERT, ROBERTA, XLM_ROBERTA, MPNET, MODERNBERT, NOMIC_BERT)
# REALM is made of BERTs.
REALM = "realm"


def of_folder(folder: Path) -> Architecture:
    """The kind of the encoder in a folder, by its config.json. Raises UserError for one that is not read."""
    file = folder / CONFIG
    kind = read_object(file).get("model_type")
    family = "bert" if kind == REALM else kind
    for each in KNOWN:
        if each.family == family:
            return each
    names = ", ".join(each.family for each in KNOWN)
    raise UserError(f"{file}: model_type {kind!r} cannot be read; {names} and {REALM} can")


def of(c: EncoderConfig) -> Architecture:
    """The kind of an encoder of ours."""
    return next(each for each in KNOWN if each.family == c.family)


def encoder_config(folder: Path) -> EncoderConfig:
    """The sizes of an encoder by its config.json.

    Raises UserError for what is not read: another kind, activation or way of telling positions.
    """
    file = folder / CONFIG
    kind, record = of_folder(folder), read_object(file)
    try:
        c = kind.config(file, record)
        # A whole number of JSON may be one that no array holds.
        eps, spread = float(c.layer_norm_eps), float(c.init_stddev)
        return dataclasses.replace(c, layer_norm_eps=eps, init_stddev=spread)
    except UserError as error:
        # What checks the sizes of any encoder does not know where they are from.
        raise error if str(file) in str(error) else UserError(f"{file}: {error}") from None
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UserError(f"{file} has a value of another kind than such a config: {error}") from None
