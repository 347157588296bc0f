"""MPNet: BERT's layers without token types, positions from 2, and a bias of distances for all layers."""

from collections.abc import Iterable
from pathlib import Path

from ralm_jax.models.config import EncoderConfig
from ralm_jax.models.encoder.transformer import BUCKETS
from ralm_jax.weights.architectures import bert
from ralm_jax.weights.architectures.kind import Architecture, Record, only
from ralm_jax.weights.layout import Slot, linear, norm, stacked


def config(file: Path, record: Record) -> EncoderConfig:
    only(file, record, relative_attention_num_buckets=BUCKETS)
    return bert.config("mpnet", file, record)


def record(c: EncoderConfig) -> Record:
    return {**bert.record(c), "relative_attention_num_buckets": BUCKETS}


def trunk(c: EncoderConfig, name: str, path: tuple[str, ...]) -> Iterable[Slot]:
    d, places = c.hidden, c.positions + c.position_offset
    for kind, count in (("word", c.vocab_size), ("position", places)):
        theirs, ours = f"{name}embeddings.{kind}_embeddings.weight", f"{kind}_embeddings"
        yield Slot(theirs, (count, d), (*path, ours, "embedding"))
    yield from norm(f"{name}embeddings.LayerNorm", (*path, "embedding_norm"), d)
    distances = f"{name}encoder.relative_attention_bias.weight"
    yield Slot(distances, (BUCKETS, c.heads), (*path, "distance_bias", "embedding"))
    for i, at, n in stacked(c, path):
        layer = f"{name}encoder.layer.{i}"
        yield from linear(f"{layer}.attention.attn.q", (*at, "query"), d, d, (n, n))
        for which, what in enumerate("kv"):
            parts = ((*n, slice(None), which), (*n, which))
            yield from linear(f"{layer}.attention.attn.{what}", (*at, "key_value"), d, d, parts)
        yield from linear(f"{layer}.attention.attn.o", (*at, "attention_output"), d, d, (n, n))
        yield from norm(f"{layer}.attention.LayerNorm", (*at, "attention_norm"), d, n)
        wide = c.intermediate
        yield from linear(f"{layer}.intermediate.dense", (*at, "intermediate"), wide, d, (n, n))
        yield from linear(f"{layer}.output.dense", (*at, "output"), d, wide, (n, n))
        yield from norm(f"{layer}.output.LayerNorm", (*at, "output_norm"), d, n)


MPNET = Architecture(
    family="mpnet",
    encoder="MPNetModel",
    masked="MPNetForMaskedLM",
    prefix="mpnet.",
    config=config,
    record=record,
    trunk=trunk,
    head=bert.fairseq_head,
    head_begins="lm_head.",
    words=bert.WORDS,
    decoder="lm_head.decoder",
    pooler=True,
)
