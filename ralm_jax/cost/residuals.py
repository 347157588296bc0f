"""Memory of a step without a compiler: what JAX keeps for the backward pass, traced and counted, and what it
works on there, by shapes. `experiments.bench.compiled` holds it against compilers."""

import collections
import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ralm_jax import partition
from ralm_jax.batches import ClozeBatch, QueryPassages, QuestionBatch, ReadClozes, Text
from ralm_jax.cost import shapes
from ralm_jax.models.config import EncoderConfig
from ralm_jax.models.encoder import attention
from ralm_jax.models.openqa import OpenQA
from ralm_jax.models.ralm import Ralm
from ralm_jax.training.schedule import Stage


class Memory(NamedTuple):
    """Bytes on each device; `activations` are kept for the backward pass, `working` is what it works on."""

    weights: float
    optimizer: float
    gradients: float
    activations: float
    working: float
    batch: float

    @property
    def total(self) -> float:
        return sum(self)


def size(tree: Any) -> float:
    """Bytes of arrays, or of their shapes."""
    leaves = [
        x for x in jax.tree.leaves(tree) if not jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
    ]
    return float(sum(x.size * x.dtype.itemsize for x in leaves))


def read_at_a_time(stage: Stage, rows: int | None) -> Stage:
    """The stage with so many queries of a device read at a time, where it reads."""
    if not hasattr(stage.task, "microbatch_size"):
        return stage
    return dataclasses.replace(stage, task=dataclasses.replace(stage.task, microbatch_size=rows))  # pyrefly: ignore


class Need(NamedTuple):
    """What a device needs for a stage: bytes whatever its queries are, and bytes for each of them."""

    weights: float
    optimizer: float
    # Of the activations for no query, for each that is read at a time, and of the batch for each.
    fixed: float
    each: float
    given: float
    # For each that is read at a time: to differentiate a layer, and the logits of words.
    layer: float
    logits: float
    # Whether a batch may be read a few queries at a time.
    grouped: bool

    def memory(self, rows: int, few: int) -> Memory:
        """Of a device that has `rows` queries, `few` of which it reads at a time.

        The most is held where the backward pass begins, before there are gradients of weights but with those
        of logits, or else where it is in the largest layers.
        """
        few = few if self.grouped else rows
        begun, inside = few * self.logits, self.weights + few * self.layer
        working = few * (self.logits if begun > inside else self.layer)
        # Of this group, and the sum of those before.
        gradients = self.weights * ((begun <= inside) + (few < rows))
        kept = self.fixed + few * self.each
        return Memory(self.weights, self.optimizer, gradients, kept, working, rows * self.given)


@attention.lowering()
def need(model: Ralm | OpenQA, stage: Stage) -> Need:
    """Traced for one query and for two: what is kept grows evenly with them."""
    state = shapes.state(model, stage)
    one, two = (activations(model, read_at_a_time(stage, n), n) for n in (1, 2))
    batch = shapes.batch(model, stage, 1)
    logits = 0.0
    if isinstance(batch, ClozeBatch):
        logits = 4.0 * batch.valid.size * batch.positions.size * model.reader_config.vocab_size
    nulls = isinstance(batch, ClozeBatch | ReadClozes)
    learning = _learning(model, stage.task, batch)
    largest = max((_layer(*one, nulls) for one in learning), default=0.0)
    kept = 2 * one - two, two - one, size(batch)
    grouped = hasattr(stage.task, "microbatch_size")
    return Need(size(state.params), size(state.opt_state), *kept, largest, logits, grouped)


def _learning(model: Any, task: Any, batch: Any) -> list[tuple[EncoderConfig, Text | None]]:
    """Encoders that learn, and what each reads for one query."""
    retriever, reader = model.retriever_config, model.reader_config
    if isinstance(batch, QueryPassages):
        return [(retriever, batch.query), (retriever, batch.passages)]
    if isinstance(batch, ReadClozes):
        known = batch.vectors is not None
        found = None if known else batch.clozes.candidates
        return [(retriever, batch.clozes.query), (retriever, found)]
    if isinstance(batch, QuestionBatch):
        towers = [(retriever, batch.question), (retriever, batch.candidates)]
        return [*towers, (reader, batch.joint)]
    towers = [(retriever, batch.query), (retriever, batch.candidates)]
    towers = [] if task.freeze_retriever else towers
    return towers if task.freeze_encoder else [*towers, (reader, batch.joint)]


def _layer(config: EncoderConfig, text: Text | None, nulls: int) -> float:
    """Bytes while a layer is differentiated; the null passage is so short that it does not count.

    What a fusion can make again is never held, so that operands and results of matrix products are all there
    is. In the feed-forward half these are its wide states before and after GELU and the gradients of both;
    beside them some eight of [B,S,D]: what was kept of this layer, taken out, and the gradient that came in.
    In attention it is some twelve of these, and unless cuDNN attends the scores: logits, weights and the
    gradient of weights in float32, and weights in 16 bits.
    """
    if text is None:
        return 0.0
    *texts, length = text.tokens.shape
    tokens = length * max(math.prod(texts) - nulls, 1)
    item = jnp.dtype(config.dtype).itemsize
    forward = item * (4 * config.intermediate + 8 * config.hidden)
    scores = 0 if config.attention == "cudnn" else (12 + item) * config.heads * length
    return float(tokens * max(forward, item * 12 * config.hidden + scores))


@attention.lowering()
def activations(model: Ralm | OpenQA, stage: Stage, rows: int, devices: int = 1) -> float:
    """Bytes that the loss of so many queries keeps for its gradient, parameters left out."""
    loss = stage.task.loss(model)
    params = shapes.state(model, stage).params
    batch = shapes.batch(model, stage, rows, devices)

    def kept(params, batch):
        return jax.vjp(lambda p: loss(p, batch, jax.random.key(0), True)[0], params)[1]

    # The loss asks its device which it is; one of one is as good as any.
    alone = jax.vmap(kept, in_axes=(None, 0), axis_name=partition.AXIS, axis_size=1)
    batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, *x.shape), x.dtype), batch)
    found = jax.tree.leaves(jax.eval_shape(alone, params, batch))
    known = collections.Counter((x.shape, x.dtype) for x in jax.tree.leaves(params))
    total = 0.0
    for x in found:
        kind = (x.shape[1:], x.dtype)
        if known[kind]:
            known[kind] -= 1
        elif not _of_a_norm(model, x):
            total += size(x)
    return total


def _of_a_norm(model: Ralm | OpenQA, x: jax.ShapeDtypeStruct) -> bool:
    """Whether it is of a LayerNorm beside states of 16 bits: XLA makes it again of these as it needs it."""
    half = jnp.dtype(model.reader_config.dtype).itemsize < x.dtype.itemsize
    return half and x.shape[-1] in (model.reader_config.hidden, model.retriever_config.hidden)
