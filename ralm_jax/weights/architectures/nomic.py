"""NomicBERT: BERT's norms and token types, positions that turn, a gated feed-forward; no biases.

Its names are those of its own files, which transformers 5 reads too; those of transformers 5 are read.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from ralm_jax.errors import UserError
from ralm_jax.models.config import EncoderConfig
from ralm_jax.weights.architectures.kind import Architecture, Record, only, sizes
from ralm_jax.weights.architectures.kind import size as size_of
from ralm_jax.weights.layout import Slot, linear, norm, stacked

# Ours, and what else it is called: by its own files, and by transformers 5.
SETTINGS = {
    "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "intermediate_size": "n_inner",
    "max_position_embeddings": "n_positions",
    "hidden_dropout_prob": "resid_pdrop",
    "attention_probs_dropout_prob": "attn_pdrop",
    "layer_norm_eps": "layer_norm_epsilon",
}
NAMES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
BASE = 1000.0


def config(file: Path, record: Record) -> EncoderConfig:
    whole = {ours: record[theirs] for ours, theirs in SETTINGS.items() if theirs in record} | record
    plain = ("prenorm", "parallel_block", "use_rms_norm", "rotary_emb_interleaved")
    unbiased = ("qkv_proj_bias", "mlp_fc1_bias", "mlp_fc2_bias")
    only(file, record, **dict.fromkeys((*plain, *unbiased), False), type_vocab_size=2)
    only(file, record, rotary_emb_fraction=1.0, activation_function="swiglu", hidden_act="silu")
    rope = record.get("rope_parameters") or {}
    if rope.get("rope_type", "default") != "default":
        raise UserError(f"{file}: the rope_type {rope['rope_type']} cannot be read; default can")
    positions = size_of(file, whole, "max_position_embeddings")
    if record.get("rotary_scaling_factor"):
        # What lies behind is turned by other angles.
        positions = min(positions, size_of(file, record, "max_trained_positions"))
    return EncoderConfig(
        **sizes(file, whole, *NAMES),
        family="nomic_bert",
        positions=positions,
        dropout=whole.get("hidden_dropout_prob", 0.0),
        attention_dropout=whole.get("attention_probs_dropout_prob", 0.0),
        layer_norm_eps=whole.get("layer_norm_eps", 1e-12),
        gelu_approximate=False,
        rotary_base=float(rope.get("rope_theta", record.get("rotary_emb_base", BASE))),
    )


def record(c: EncoderConfig) -> Record:
    sized = {
        "hidden_size": c.hidden,
        "num_hidden_layers": c.layers,
        "num_attention_heads": c.heads,
        "intermediate_size": c.intermediate,
        "max_position_embeddings": c.positions,
        "hidden_dropout_prob": c.dropout,
        "attention_probs_dropout_prob": c.attention_dropout,
        "layer_norm_eps": c.layer_norm_eps,
    }
    flags = ("prenorm", "qkv_proj_bias", "mlp_fc1_bias", "mlp_fc2_bias", "rotary_emb_interleaved")
    return {
        "vocab_size": c.vocab_size,
        "type_vocab_size": c.token_types,
        **sized,
        **{theirs: sized[ours] for ours, theirs in SETTINGS.items()},
        **dict.fromkeys(flags, False),
        "hidden_act": "silu",
        "activation_function": "swiglu",
        "initializer_range": c.init_stddev,
        "rotary_emb_base": c.rotary_base,
        "rotary_emb_fraction": 1.0,
        "rope_parameters": {"rope_type": "default", "rope_theta": c.rotary_base},
    }


def trunk(c: EncoderConfig, name: str, path: tuple[str, ...]) -> Iterable[Slot]:
    d, wide = c.hidden, c.intermediate
    for kind, count in (("word", c.vocab_size), ("token_type", c.token_types)):
        ours = kind.removeprefix("token_") + "_embeddings"
        theirs = f"{name}embeddings.{kind}_embeddings.weight"
        yield Slot(theirs, (count, d), (*path, ours, "embedding"))
    yield from norm(f"{name}emb_ln", (*path, "embedding_norm"), d)
    for i, at, n in stacked(c, path):
        layer = f"{name}encoder.layers.{i}"
        for theirs, ours, out, into, part in (
            ("attn.Wqkv", "query_key_value", 3 * d, d, n),
            ("attn.out_proj", "attention_output", d, d, n),
            # Of [D,2,I]: the first is what the activation is of.
            ("mlp.fc12", "intermediate", wide, d, (*n, slice(None), 0)),
            ("mlp.fc11", "intermediate", wide, d, (*n, slice(None), 1)),
            ("mlp.fc2", "output", d, wide, n),
        ):
            yield Slot(f"{layer}.{theirs}.weight", (out, into), (*at, ours, "kernel"), part, True)
        yield from norm(f"{layer}.norm1", (*at, "attention_norm"), d, n)
        yield from norm(f"{layer}.norm2", (*at, "output_norm"), d, n)


def head(c: EncoderConfig, path: tuple[str, ...]) -> Iterable[Slot]:
    name = "cls.predictions"
    yield from linear(f"{name}.transform.dense", (*path, "head"), c.hidden, c.hidden)
    yield from norm(f"{name}.transform.layer_norm", (*path, "head_norm"), c.hidden)
    yield Slot(f"{name}.bias", (c.vocab_size,), (*path, "head_bias"))


# Names of transformers 5, and those of its own files.
RENAMED = {
    "embeddings.LayerNorm": "emb_ln",
    "self_attn.o_proj": "attn.out_proj",
    "mlp.up_proj": "mlp.fc11",
    "mlp.gate_proj": "mlp.fc12",
    "mlp.down_proj": "mlp.fc2",
    "post_attention_layernorm": "norm1",
    "post_mlp_layernorm": "norm2",
}
JOINED = tuple(f"self_attn.{part}_proj.weight" for part in "qkv")


def former(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors under the names of its own files, queries, keys and values joined."""
    found = {}
    for name, array in tensors.items():
        if name.endswith(JOINED[1:]):
            continue
        if name.endswith(JOINED[0]):
            stem = name.removesuffix(JOINED[0])
            array = np.concatenate([tensors.get(f"{stem}{part}", array[:0]) for part in JOINED])
            name = f"{stem}attn.Wqkv.weight"
        for new, old in RENAMED.items():
            name = name.replace(new, old)
        start, mark, rest = name.partition("layers.")
        if mark and not start.endswith("encoder."):
            name = f"{start}encoder.layers.{rest}"
        found[name] = array
    return found


NOMIC_BERT = Architecture(
    family="nomic_bert",
    encoder="NomicBertModel",
    masked="NomicBertForMaskedLM",
    prefix="nomic_bert.",
    config=config,
    record=record,
    trunk=trunk,
    head=head,
    head_begins="cls.predictions.transform.dense.bias",
    words="embeddings.word_embeddings.weight",
    decoder="cls.predictions.decoder",
    former=former,
)
