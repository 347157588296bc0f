"""Texts sorted by length and taken in parts: what fits, and that what comes out is in the order given."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ralm_jax.batches import ClozeBatch, Text
from ralm_jax.models import parts


def text(lengths, width=8):
    tokens = (np.arange(width) < np.array(lengths)[..., None]).astype(np.int32)
    return Text(tokens, np.zeros_like(tokens))


def batch(joint, candidates, vectors=None):
    rest = dict.fromkeys(("query", "valid", "positions", "targets", "weights"))
    return ClozeBatch(candidates=text(candidates), joint=text(joint), vectors=vectors, **rest)


def test_parts_are_as_equal_as_may_be_and_none_is_empty():
    assert parts.ends(8, 4) == [2, 4, 6, 8]
    assert parts.ends(7, 4) == [1, 3, 5, 7]
    assert parts.ends(3, 4) == [1, 2, 3]


@pytest.mark.parametrize(
    ("joint", "candidates", "widths", "fits"),
    [
        # The null passage, first, is not counted. Sorted: 1 2 3 5.
        ([[8, 1, 3], [8, 5, 2]], [[8, 1, 1], [8, 1, 1]], (2, 5), True),
        ([[8, 1, 3], [8, 5, 2]], [[8, 1, 1], [8, 1, 1]], (1, 5), False),
        ([[8, 1, 3], [8, 5, 2]], [[8, 1, 1], [8, 1, 1]], (2, 4), False),
        ([[8, 1, 3], [8, 5, 2]], [[8, 3, 3], [8, 3, 1]], (2, 5), False),
        # Of fewer texts than parts the widest parts are taken.
        ([[8, 4]], [[8, 1]], (1, 2, 4), True),
        ([[8, 4]], [[8, 1]], (1, 4, 3), False),
    ],
)
def test_what_fits(joint, candidates, widths, fits):
    assert parts.fits(batch(joint, candidates), widths) == fits


def test_candidates_that_are_known_by_their_vectors_are_not_read():
    known = np.zeros((1, 2, 3))
    assert not parts.fits(batch([[8, 1]], [[8, 5]]), (2,))
    assert parts.fits(batch([[8, 1]], [[8, 5]], known), (2,))


def test_what_comes_out_is_in_the_order_given_and_no_wider_than_its_part():
    rng = np.random.default_rng(0)
    lengths = rng.permutation(np.arange(10) % 8 + 1)
    given, seen = text(lengths), []

    def call(part, beside):
        seen.append(part.tokens.shape)
        return jnp.stack([part.tokens.sum(1), beside["a"]], axis=1)

    made = parts.in_parts(call, given, {"a": jnp.arange(10)}, (3, 6, 8))
    np.testing.assert_array_equal(made, np.stack([lengths, np.arange(10)], axis=1))
    assert seen == [(3, 3), (3, 6), (4, 8)]


def test_gradients_go_back_to_where_they_came_from():
    given = text([3, 1, 2])
    weights = jnp.array([10.0, 20.0, 30.0])

    def summed(weights):
        made = parts.in_parts(lambda part, w: part.tokens.sum(1) * w, given, weights, (1, 2, 3))
        return (made * jnp.array([1.0, 2.0, 3.0])).sum()

    assert jax.grad(summed)(weights).tolist() == [3.0, 2.0, 6.0]
