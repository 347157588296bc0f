"""BERT, and RoBERTa and XLM-R, which have its layers but positions from 2 and one type of tokens."""

import functools
from collections.abc import Iterable
from pathlib import Path

from ralm_jax.models.config import OFFSETS, TYPES, EncoderConfig, Family
from ralm_jax.weights import layout
from ralm_jax.weights.architectures.kind import (
    Architecture,
    Record,
    gelu_name,
    only,
    sizes,
    tanh_form,
)
from ralm_jax.weights.architectures.kind import size as size_of
from ralm_jax.weights.layout import Slot

NAMES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")


def config(family: Family, file: Path, record: Record) -> EncoderConfig:
    """The sizes of an encoder with BERT's layers; also MPNet's, which names them alike."""
    approximate = tanh_form(file, record, "hidden_act")
    only(file, record, position_embedding_type="absolute")
    offset = OFFSETS.get(family, 0)
    if family in TYPES:
        only(file, record, type_vocab_size=TYPES[family])
    if offset:
        # Positions begin behind it.
        only(file, record, pad_token_id=offset - 1)
    return EncoderConfig(
        **sizes(file, record, *NAMES),
        family=family,
        positions=size_of(file, record, "max_position_embeddings") - offset,
        dropout=record.get("hidden_dropout_prob", 0.1),
        attention_dropout=record.get("attention_probs_dropout_prob", 0.1),
        layer_norm_eps=record.get("layer_norm_eps", 1e-12),
        gelu_approximate=approximate,
    )


def record(c: EncoderConfig) -> Record:
    types = {"type_vocab_size": c.token_types} if c.token_types else {}
    return {
        "vocab_size": c.vocab_size,
        "hidden_size": c.hidden,
        "num_hidden_layers": c.layers,
        "num_attention_heads": c.heads,
        "intermediate_size": c.intermediate,
        "max_position_embeddings": c.positions + c.position_offset,
        "hidden_dropout_prob": c.dropout,
        "attention_probs_dropout_prob": c.attention_dropout,
        "layer_norm_eps": c.layer_norm_eps,
        "hidden_act": gelu_name(c),
        "initializer_range": c.init_stddev,
        **types,
    }


def fairseq_head(c: EncoderConfig, path: tuple[str, ...]) -> Iterable[Slot]:
    """The masked-LM head as RoBERTa and MPNet name it."""
    yield from layout.linear("lm_head.dense", (*path, "head"), c.hidden, c.hidden)
    yield from layout.norm("lm_head.layer_norm", (*path, "head_norm"), c.hidden)
    yield Slot("lm_head.bias", (c.vocab_size,), (*path, "head_bias"))


WORDS = "embeddings.word_embeddings.weight"
BERT = Architecture(
    family="bert",
    encoder="BertModel",
    masked="BertForMaskedLM",
    prefix="bert.",
    config=functools.partial(config, "bert"),
    record=record,
    trunk=layout.trunk,
    head=layout.mlm_head,
    head_begins="cls.predictions.transform",
    words=WORDS,
    decoder="cls.predictions.decoder",
    pooler=True,
)


def _roberta(family: Family, name: str) -> Architecture:
    return Architecture(
        family=family,
        encoder=f"{name}Model",
        masked=f"{name}ForMaskedLM",
        prefix="roberta.",
        config=functools.partial(config, family),
        record=record,
        trunk=layout.trunk,
        head=fairseq_head,
        head_begins="lm_head.",
        words=WORDS,
        decoder="lm_head.decoder",
        pooler=True,
    )


ROBERTA, XLM_ROBERTA = _roberta("roberta", "Roberta"), _roberta("xlm-roberta", "XLMRoberta")
