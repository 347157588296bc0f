"""What kind of model is in a folder, and how its tensors become one of ours.

An encoder of `architectures` and its masked LM, sentence-transformers over one of them (a CrossEncoder over
BERT too), and REALM as transformers 4 keeps it (embedder, scorer, knowledge-augmented encoder, reader,
open-QA). What a source lacks is drawn at random, and said: a retriever and a reader both start from the one
encoder that is there.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ralm_jax.batches import Lengths
from ralm_jax.errors import UserError
from ralm_jax.models import initial
from ralm_jax.models.config import EncoderConfig
from ralm_jax.models.openqa import OpenQA
from ralm_jax.models.ralm import Ralm
from ralm_jax.weights import layout, sentence_modules, sentence_settings
from ralm_jax.weights.architectures import known
from ralm_jax.weights.architectures.bert import BERT
from ralm_jax.weights.architectures.kind import Architecture, number, size
from ralm_jax.weights.architectures.known import encoder_config
from ralm_jax.weights.layout import Slot
from ralm_jax.weights.model_folder import (
    CONFIG,
    encoder_folder,
    length_limit,
    modules,
    read_object,
    saved_class,
)
from ralm_jax.weights.tensors import Tensors, read_tensors

TOWER, QUERY_TOWER = ("retriever", "passage_tower"), ("retriever", "query_tower")
READER = ("reader",)
# Passage vectors, a buffer of RealmForOpenQA.
BLOCKS = "block_emb"
# What a state dict may hold beside what is read: buffers, copies, heads that pretraining left behind (also
# the masked-LM heads of REALM's embedder and reader, which nothing uses).
IGNORED = (
    "embeddings.position_ids",
    "cls.seq_relationship.weight",
    "cls.seq_relationship.bias",
    "pooler.dense.weight",
    "pooler.dense.bias",
)
# In a config.json of REALM, with what they are where it does not say.
REALM_SIZES = {
    "retriever_proj_size": 128,
    "span_hidden_size": 256,
    "max_span_width": 10,
    "searcher_seq_len": 64,
    "reader_seq_len": 320,
}
# A reader computes the spans of each width apart.
MOST_WIDE = 512
# Cosines lie within 1: sentence-transformers multiplies them by this to train.
COSINE_SCALE = 20.0


class Read(NamedTuple):
    """A model as it stands in a folder."""

    model: Ralm | OpenQA
    params: dict
    lengths: Lengths
    # What the source lacks.
    drawn: list[str]
    # The class it was saved from.
    kind: str
    # Tensors that no parameter here is made of.
    unused: dict[str, np.ndarray]
    # What a user should know about it.
    notes: tuple[str, ...] = ()


def read(folder: Path) -> Read:
    """Reads the model of a folder.

    Raises UserError: a kind that cannot be read, or a tensor missing, renamed, superfluous, of another shape.
    """
    place = encoder_folder(folder)
    c, kind = encoder_config(place), known.of_folder(place)
    tensors = kind.former(read_tensors(place))
    name = kind.prefix if any(n.startswith(kind.prefix) for n in tensors) else ""
    if modules(folder):
        return _sentence_transformers(folder, c, tensors, name)
    if read_object(folder / CONFIG)["model_type"] == known.REALM:
        return _realm(folder, c, tensors)
    if any(n.startswith("classifier.") for n in tensors):
        return _cross_encoder(folder, c, tensors, name)
    has_head = any(n.startswith(kind.head_begins) for n in tensors)
    has_pooler = f"{name}pooler.dense.weight" in tensors
    slots = [
        *tower(c, TOWER, name, pooler=has_pooler),
        *kind.trunk(c, name, (*READER, "encoder")),
    ]
    slots += kind.head(c, READER) if has_head else []
    drawn = ["retriever: projection" if has_pooler else "retriever: pooler and projection"]
    drawn += [] if has_head else ["reader: masked-LM head"]
    _tied(tensors, kind, name, folder)
    return _filled(folder, Ralm(c, c), slots, tensors, _lengths(folder, c), drawn)


def tower(c: EncoderConfig, path, name: str, *, pooler: bool) -> Iterator[Slot]:
    """One tower of the retriever without its projection."""
    yield from known.of(c).trunk(c, name, (*path, "encoder"))
    if pooler:
        yield from layout.linear(f"{name}pooler.dense", (*path, "pooler"), c.hidden, c.hidden)


def embedder(c: EncoderConfig, path, name: str, width: int) -> Iterator[Slot]:
    """A RealmEmbedder, its tensors under `name`."""
    yield from tower(c, path, f"{name}realm.", pooler=True)
    yield from layout.linear(f"{name}cls.dense", (*path, "projection"), width, c.hidden)
    yield from layout.norm(f"{name}cls.LayerNorm", (*path, "norm"), width)


def span_reader(c: EncoderConfig, name: str, hidden: int) -> Iterator[Slot]:
    """A RealmReader, its tensors under `name`."""
    yield from layout.trunk(c, f"{name}realm.", (*READER, "encoder"))
    head = f"{name}qa_outputs"
    yield from layout.linear(
        f"{head}.dense_intermediate", (*READER, "span_ends"), 2 * hidden, c.hidden
    )
    yield from layout.linear(f"{head}.dense_output", (*READER, "span_score"), 1, hidden)
    yield from layout.norm(f"{head}.layer_normalization", (*READER, "span_norm"), hidden)


def encoder(c: EncoderConfig) -> Iterator[Slot]:
    """A RealmKnowledgeAugEncoder."""
    yield from layout.trunk(c, "realm.", (*READER, "encoder"))
    yield from layout.mlm_head(c, READER)


def _sentence_transformers(folder: Path, c: EncoderConfig, tensors: Tensors, name: str) -> Read:
    """Retriever: as its modules say. Reader: the same encoder with a new masked-LM head."""
    found = sentence_modules.read(folder, c)
    model = Ralm(
        c,
        c,
        embedding=found.embedding,
        pooling=found.pooling,
        head=found.head,
        norm_eps=found.norm_eps,
        score_scale=1.0 if found.head == "layer_norm" else COSINE_SCALE,
    )
    slots = [
        *tower(c, TOWER, name, pooler=False),
        *known.of(c).trunk(c, name, (*READER, "encoder")),
        *found.slots,
    ]
    whole = {**tensors, **found.tensors}
    query, passage = sentence_settings.text_lengths(folder, c)
    lengths = Lengths(query=min(64, query), passage=passage, joint=min(384, c.positions))
    place = encoder_folder(folder)
    read = _filled(place, model, slots, whole, lengths, ["reader: masked-LM head"])
    return read._replace(notes=tuple(found.notes))


def _cross_encoder(folder: Path, c: EncoderConfig, tensors: Tensors, name: str) -> Read:
    """Scorer: as sentence-transformers' CrossEncoder reads it. Retriever and reader: the same encoder."""
    if c.family != "bert":
        raise UserError(f"{folder}: a classifier of {c.family} cannot be read; one of bert can")
    labels = tensors.get("classifier.bias", np.zeros(0)).size
    if labels != 1:
        raise UserError(
            f"{folder}: a cross-encoder that gives {labels} numbers cannot rerank; one that gives 1 can"
        )
    slots = [
        *layout.trunk(c, name, ("scorer", "encoder")),
        *layout.linear(f"{name}pooler.dense", ("scorer", "pooler"), c.hidden, c.hidden),
        *layout.linear("classifier", ("scorer", "score"), 1, c.hidden),
        *tower(c, TOWER, name, pooler=False),
        *layout.trunk(c, name, (*READER, "encoder")),
    ]
    model = Ralm(c, c, with_scorer=True, scorer_config=c, scorer_pooler=True)
    drawn = ["retriever: pooler and projection", "reader: masked-LM head"]
    read = _filled(folder, model, slots, tensors, _lengths(folder, c), drawn)
    return read._replace(notes=("a reranker: start from it with --init-reranker",))


def _realm(folder: Path, c: EncoderConfig, tensors: Tensors) -> Read:
    """One of the five classes of transformers 4, known by `architectures`."""
    record = read_object(folder / CONFIG)
    kind = saved_class(record)
    whole = {**REALM_SIZES, **record}
    width, hidden, most, query, joint = (size(folder / CONFIG, whole, n) for n in REALM_SIZES)
    if most > MOST_WIDE:
        raise UserError(
            f"{folder / CONFIG}: max_span_width is {most:,}; a span has at most {MOST_WIDE} wordpieces"
        )
    shape: dict[str, Any] = {"embedding": width}
    spans: dict[str, Any] = {"span_width": most, "span_hidden": hidden, **shape}
    spans["span_norm_eps"] = number(folder / CONFIG, record, "reader_layer_norm_eps", 1e-3)
    lengths = _lengths(folder, c)
    asked = _lengths(folder, c, query=query, joint=joint)
    shape["norm_eps"] = spans["norm_eps"] = c.layer_norm_eps
    head, projection = ["reader: masked-LM head"], ["retriever: projection"]
    if kind == "RealmEmbedder":
        slots = [*embedder(c, TOWER, "", width), *layout.trunk(c, "realm.", (*READER, "encoder"))]
        return _filled(folder, Ralm(c, c, **shape), slots, tensors, lengths, head)
    if kind == "RealmScorer":
        second = [*embedder(c, QUERY_TOWER, "query_embedder.", width)]
        names = [slot.name for slot in second if slot.name in tensors]
        same = all(np.array_equal(tensors[n], tensors.get(n[len("query_") :], 0)) for n in names)
        first = embedder(c, TOWER, "embedder.", width)
        if same:
            # transformers keeps one tower under two names.
            tensors = {n: x for n, x in tensors.items() if n not in names}
        slots = [*first, *([] if same else second)]
        slots += layout.trunk(c, "embedder.realm.", (*READER, "encoder"))
        model = Ralm(c, c, share_towers=same, **shape)
        return _filled(folder, model, slots, tensors, lengths, head)
    if kind == "RealmKnowledgeAugEncoder":
        _tied(tensors, BERT, "realm.", folder)
        slots = [*encoder(c), *tower(c, TOWER, "realm.", pooler=True)]
        return _filled(folder, Ralm(c, c, **shape), slots, tensors, lengths, projection)
    if kind == "RealmReader":
        slots = [*span_reader(c, "", hidden), *tower(c, TOWER, "realm.", pooler=True)]
        return _filled(folder, OpenQA(c, c, **spans), slots, tensors, asked, projection)
    if kind == "RealmForOpenQA":
        slots = [*embedder(c, TOWER, "embedder.", width), *span_reader(c, "reader.", hidden)]
        return _filled(folder, OpenQA(c, c, **spans), slots, tensors, asked, [])
    raise UserError(
        f"{folder / CONFIG}: the architecture {kind} cannot be read; the five of REALM in transformers 4 can"
    )


def _lengths(
    folder: Path, c: EncoderConfig, query: int = 64, passage: int = 288, joint: int = 384
) -> Lengths:
    """A text is as long as the model's tokenizer lets it be, a question with a passage as positions go."""
    most = length_limit(folder, c)
    return Lengths(
        query=min(query, most), passage=min(passage, most), joint=min(joint, c.positions)
    )


def _tied(tensors: Tensors, kind: Architecture, trunk: str, folder: Path) -> None:
    """Raises UserError where the masked-LM decoder is not the word embeddings."""
    words, decoder = (tensors.get(n) for n in (f"{trunk}{kind.words}", f"{kind.decoder}.weight"))
    if words is not None and decoder is not None and not np.array_equal(words, decoder):
        raise UserError(
            f"{folder}: the tensor {kind.decoder}.weight differs from the word embeddings; a reader here "
            "uses one matrix for both"
        )


def _filled(folder: Path, model, slots, tensors: Tensors, lengths: Lengths, drawn) -> Read:
    """The parameters: tensors where the source has them, drawn (seed 0) where it does not."""
    slots = list(slots)
    # Before a model is made as large as the config says.
    layout.check(slots, tensors, folder)
    params = initial.drawn_params(model, seed=0)
    used = layout.take(slots, tensors, params, folder)
    head = known.of(model.reader_config).decoder
    ignored = (*IGNORED, f"{head}.weight", f"{head}.bias")
    for name in sorted(tensors.keys() - used):
        if not name.endswith(ignored) and "cls.predictions." not in name and name != BLOCKS:
            raise UserError(f"{folder}: the tensor {name} has no place in this kind of model")
    kind = saved_class(read_object(folder / CONFIG)) or type(model).__name__
    # A pooler may have begun a retriever, and still is no part of the reader it came with.
    poolers = {name for name in tensors if "pooler.dense." in name}
    unused = {name: tensors[name] for name in sorted(tensors.keys() - used | poolers)}
    return Read(model, params, lengths, drawn, kind, unused)
