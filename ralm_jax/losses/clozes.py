"""Clozes and their candidates, scored and read: a few queries at a time, and no wider than they are."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ralm_jax.batches import ClozeBatch
from ralm_jax.losses import microbatch
from ralm_jax.models import parts
from ralm_jax.models.base import RetrievalModel

# Among the metrics of a step, where they are written back: rows and vectors of the candidates of all devices,
# [B,K-1] and [B,K-1,E].
WRITTEN = "written"


def scored(
    model, params, examples: ClozeBatch, keys: jax.Array, train: bool, widths: Sequence[int]
):
    """Scores [B,K] and log-likelihoods [B,K,M]; and where they are written back, the candidates' vectors.

    Returns:
      ((scores, log-likelihoods), {} or {WRITTEN: (rows [B,K-1], vectors [B,K-1,E])}).
    """
    named: Any = {} if examples.rows is None else {"mutable": ["intermediates"]}
    if widths:
        # What is dropped is drawn for a part as a whole.
        rngs = {"dropout": keys[0]}
        found: Any = model.apply({"params": params}, examples, train, widths, rngs=rngs, **named)
    else:
        found = each(model, params, (examples,), keys, train, **named)
    if examples.rows is None:
        return found, {}
    found, made = found
    (vectors,) = made["intermediates"]["passages"]
    return found, {WRITTEN: (examples.rows[:, 1:], vectors)}


def each(model: RetrievalModel, params, inputs: tuple, keys: jax.Array, train: bool, **named):
    """The model on examples [B,...], the dropout of each drawn from its own key."""

    def call(inputs, key):
        return model.apply({"params": params}, *inputs, train, rngs={"dropout": key}, **named)

    return microbatch.each_example(call, inputs, keys, alone=train and model.drops)


def in_microbatches(
    loss: Any,
    params,
    batch: ClozeBatch,
    key,
    how: tuple[int | None, Sequence[int], Sequence[int]],
):
    """The loss over all rows, so many of them at a time, no wider than they are -> (sum, count, metrics).

    loss: a `microbatch.Loss` that also takes `in_parts`, widths. how: see `steps.realm_loss`.
    """
    (size, widths, part_widths), local = how, len(batch.weights)
    few = microbatch.divisor(local, size or local)
    narrower = [width for width in widths if width < batch.joint.tokens.shape[-1]]

    def at(width: int) -> microbatch.Loss:
        return lambda params, _, rows: loss(params, _, (rows[0].narrowed(width), rows[1]))

    ways = [*map(at, narrower), loss]
    if part_widths:
        ways.insert(-1, functools.partial(loss, in_parts=part_widths))

    def way(rows):
        fits = [rows[0].used() <= width for width in narrower]
        fits += [parts.fits(rows[0], part_widths)] if part_widths else []
        return jnp.array([*fits, True]).argmax()

    summed = microbatch.in_groups(ways, way, few) if few < local or len(ways) > 1 else loss
    total, ((count, metrics), kept) = summed(params, (), (batch, jax.random.split(key, local)))
    return total, count, {**metrics, **kept}
