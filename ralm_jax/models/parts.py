"""Texts taken in parts, each no wider than its own: what pads them to the longest of all is not read."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ralm_jax.batches import ClozeBatch, Text


def ends(texts: int, parts: int) -> list[int]:
    """Where each of so many parts of n texts ends, as equal as may be; no part is empty."""
    parts = min(parts, texts)
    return [texts * (part + 1) // parts for part in range(parts)]


def fits(batch: ClozeBatch, widths: Sequence[int]) -> jax.Array:
    """Whether what is read for the queries, the null passage left out, fits parts of these widths."""
    return jnp.stack([_fit(text.used()[:, 1:], widths) for text in batch.read()]).all()


def _fit(used: jax.Array, widths: Sequence[int]) -> jax.Array:
    """Whether the longest of each part of texts of these lengths [B,K], sorted, is no wider than the part."""
    lengths = jnp.sort(used.reshape(-1))
    last = jnp.array(ends(len(lengths), len(widths))) - 1
    return (lengths[last] <= jnp.array(widths[-len(last) :])).all()


def in_parts(
    call: Callable[[Text, Any], jax.Array], text: Text, beside: Any, widths: Sequence[int]
) -> jax.Array:
    """`call(texts [m,width], beside [m,...]) -> [m,...]` of texts [n,S] that fit the widths -> [n,...].

    The shortest are taken first, at the first width, and so on; what comes out is in the order given.
    """
    order, made, first = jnp.argsort(text.used()), [], 0
    stops = ends(len(order), len(widths))
    for width, last in zip(widths[-len(stops) :], stops, strict=True):
        rows = order[first:last]
        part = Text(text.tokens[rows, :width], text.types[rows, :width])
        made.append(call(part, jax.tree.map(lambda x, rows=rows: x[rows], beside)))
        first = last
    return jnp.concatenate(made)[jnp.argsort(order)]
