"""ModernBERT: norms before each part, positions that turn, layers that see what is near; no biases."""

from collections.abc import Iterable
from pathlib import Path

from ralm_jax.errors import UserError
from ralm_jax.models.config import EncoderConfig
from ralm_jax.weights.architectures.kind import (
    MOST_LAYERS,
    Architecture,
    Record,
    gelu_name,
    only,
    size,
    sizes,
    tanh_form,
)
from ralm_jax.weights.layout import Slot, stacked

NAMES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
BASES = {"full_attention": 160_000.0, "sliding_attention": 10_000.0}
FORMER_BASES = {"full_attention": "global_rope_theta", "sliding_attention": "local_rope_theta"}


def config(file: Path, record: Record) -> EncoderConfig:
    unbiased = dict.fromkeys(("attention_bias", "mlp_bias", "norm_bias", "classifier_bias"), False)
    only(file, record, **unbiased, decoder_bias=True, classifier_activation="gelu")
    approximate = tanh_form(file, record, "hidden_activation")
    if approximate:
        raise UserError(f"{file}: hidden_activation must be gelu, as that of the head is")
    common = sizes(file, record, *NAMES)
    positions = size(file, record, "max_position_embeddings")
    return EncoderConfig(
        **common,
        family="modernbert",
        positions=positions,
        dropout=record.get("mlp_dropout", 0.0),
        attention_dropout=record.get("attention_dropout", 0.0),
        layer_norm_eps=record.get("norm_eps", 1e-5),
        gelu_approximate=False,
        rotary_base=_base(file, record, "full_attention"),
        local_rotary_base=_base(file, record, "sliding_attention"),
        local_reach=min(record.get("local_attention", 128) // 2, positions),
        global_every=_every(file, record, common["layers"]),
    )


def _base(file: Path, record: Record, kind: str) -> float:
    """Of the angles in layers of a kind: as transformers 5 says it, or as 4 did."""
    found = (record.get("rope_parameters") or {}).get(kind) or {}
    if found.get("rope_type", "default") != "default":
        raise UserError(f"{file}: the rope_type {found['rope_type']} cannot be read; default can")
    return float(found.get("rope_theta", record.get(FORMER_BASES[kind], BASES[kind])))


def _every(file: Path, record: Record, layers: int) -> int:
    """Every how many layers one sees all: as transformers 4 says it, or by the list of 5."""
    kinds = record.get("layer_types")
    if kinds is None:
        # Beyond the number of layers it says the same.
        return min(record.get("global_attn_every_n_layers", 3), MOST_LAYERS)
    whole = [i for i, kind in enumerate(kinds) if kind == "full_attention"]
    every = whole[1] if len(whole) > 1 else max(layers, 1)
    if whole != list(range(0, layers, every)) or len(kinds) != layers:
        raise UserError(
            f"{file}: layer_types must be full_attention first, and every n layers from there"
        )
    return every


def record(c: EncoderConfig) -> Record:
    bases = {"full_attention": c.rotary_base, "sliding_attention": c.local_rotary_base}
    return {
        "vocab_size": c.vocab_size,
        "hidden_size": c.hidden,
        "num_hidden_layers": c.layers,
        "num_attention_heads": c.heads,
        "intermediate_size": c.intermediate,
        "max_position_embeddings": c.positions,
        "mlp_dropout": c.dropout,
        "attention_dropout": c.attention_dropout,
        "norm_eps": c.layer_norm_eps,
        "norm_bias": False,
        "hidden_activation": gelu_name(c),
        "initializer_range": c.init_stddev,
        "local_attention": 2 * c.local_reach,
        "global_attn_every_n_layers": c.global_every,
        **{FORMER_BASES[kind]: base for kind, base in bases.items()},
        "rope_parameters": {k: {"rope_type": "default", "rope_theta": x} for k, x in bases.items()},
        "layer_types": [
            "sliding_attention" if i % c.global_every else "full_attention" for i in range(c.layers)
        ],
    }


def trunk(c: EncoderConfig, name: str, path: tuple[str, ...]) -> Iterable[Slot]:
    d, wide = c.hidden, c.intermediate
    yield Slot(f"{name}embeddings.tok_embeddings.weight", (c.vocab_size, d), (*path, *WORDS))
    for theirs, ours in (("embeddings.norm", "embedding_norm"), ("final_norm", "final_norm")):
        yield Slot(f"{name}{theirs}.weight", (d,), (*path, ours, "scale"))
    for i, at, n in stacked(c, path):
        layer = f"{name}layers.{i}"
        if i:
            yield Slot(f"{layer}.attn_norm.weight", (d,), (*at, "attention_norm", "scale"), n)
        for theirs, ours, out, into in (
            ("attn.Wqkv", "query_key_value", 3 * d, d),
            ("attn.Wo", "attention_output", d, d),
            ("mlp.Wi", "intermediate", 2 * wide, d),
            ("mlp.Wo", "output", d, wide),
        ):
            yield Slot(f"{layer}.{theirs}.weight", (out, into), (*at, ours, "kernel"), n, True)
        yield Slot(f"{layer}.mlp_norm.weight", (d,), (*at, "output_norm", "scale"), n)


def head(c: EncoderConfig, path: tuple[str, ...]) -> Iterable[Slot]:
    yield Slot("head.dense.weight", (c.hidden, c.hidden), (*path, "head", "kernel"), (), True)
    yield Slot("head.norm.weight", (c.hidden,), (*path, "head_norm", "scale"))
    yield Slot("decoder.bias", (c.vocab_size,), (*path, "head_bias"))


WORDS = ("word_embeddings", "embedding")
MODERNBERT = Architecture(
    family="modernbert",
    encoder="ModernBertModel",
    masked="ModernBertForMaskedLM",
    prefix="model.",
    config=config,
    record=record,
    trunk=trunk,
    head=head,
    head_begins="head.",
    words="embeddings.tok_embeddings.weight",
    decoder="decoder",
)
