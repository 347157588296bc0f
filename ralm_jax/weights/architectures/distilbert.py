"""DistilBERT: BERT's layers without token types, under names of its own."""

from collections.abc import Iterable
from pathlib import Path

from ralm_jax.models.config import EncoderConfig
from ralm_jax.weights.architectures.kind import (
    Architecture,
    Record,
    gelu_name,
    size,
    sizes,
    tanh_form,
)
from ralm_jax.weights.layout import Slot, linear, norm, stacked


def config(file: Path, record: Record) -> EncoderConfig:
    return EncoderConfig(
        **sizes(file, record, "dim", "n_layers", "n_heads", "hidden_dim"),
        family="distilbert",
        positions=size(file, record, "max_position_embeddings"),
        dropout=record.get("dropout", 0.1),
        attention_dropout=record.get("attention_dropout", 0.1),
        gelu_approximate=tanh_form(file, record, "activation"),
    )


def record(c: EncoderConfig) -> Record:
    return {
        "vocab_size": c.vocab_size,
        "dim": c.hidden,
        "n_layers": c.layers,
        "n_heads": c.heads,
        "hidden_dim": c.intermediate,
        "max_position_embeddings": c.positions,
        "dropout": c.dropout,
        "attention_dropout": c.attention_dropout,
        "activation": gelu_name(c),
        "initializer_range": c.init_stddev,
    }


def trunk(c: EncoderConfig, name: str, path: tuple[str, ...]) -> Iterable[Slot]:
    d = c.hidden
    for kind, count in (("word", c.vocab_size), ("position", c.positions)):
        theirs, ours = f"{name}embeddings.{kind}_embeddings.weight", f"{kind}_embeddings"
        yield Slot(theirs, (count, d), (*path, ours, "embedding"))
    yield from norm(f"{name}embeddings.LayerNorm", (*path, "embedding_norm"), d)
    for i, at, n in stacked(c, path):
        layer = f"{name}transformer.layer.{i}"
        yield from linear(f"{layer}.attention.q_lin", (*at, "query"), d, d, (n, n))
        for which, what in enumerate(("k_lin", "v_lin")):
            parts = ((*n, slice(None), which), (*n, which))
            yield from linear(f"{layer}.attention.{what}", (*at, "key_value"), d, d, parts)
        yield from linear(f"{layer}.attention.out_lin", (*at, "attention_output"), d, d, (n, n))
        yield from norm(f"{layer}.sa_layer_norm", (*at, "attention_norm"), d, n)
        yield from linear(f"{layer}.ffn.lin1", (*at, "intermediate"), c.intermediate, d, (n, n))
        yield from linear(f"{layer}.ffn.lin2", (*at, "output"), d, c.intermediate, (n, n))
        yield from norm(f"{layer}.output_layer_norm", (*at, "output_norm"), d, n)


def head(c: EncoderConfig, path: tuple[str, ...]) -> Iterable[Slot]:
    yield from linear("vocab_transform", (*path, "head"), c.hidden, c.hidden)
    yield from norm("vocab_layer_norm", (*path, "head_norm"), c.hidden)
    yield Slot("vocab_projector.bias", (c.vocab_size,), (*path, "head_bias"))


DISTILBERT = Architecture(
    family="distilbert",
    encoder="DistilBertModel",
    masked="DistilBertForMaskedLM",
    prefix="distilbert.",
    config=config,
    record=record,
    trunk=trunk,
    head=head,
    head_begins="vocab_transform",
    words="embeddings.word_embeddings.weight",
    decoder="vocab_projector",
)
