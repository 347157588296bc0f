import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ralm_jax.training import optim

PARAMS = {
    part: {
        "layers": {"norm": {"scale": jnp.ones((2, 3)), "bias": jnp.ones((2, 3))}},
        "words": {"embedding": jnp.ones((5, 3))},
        "out": {"kernel": jnp.ones((3, 4)), "bias": jnp.ones(4)},
    }
    for part in ("retriever", "reader")
}


def step(optimizer, grads, params=PARAMS):
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    return updates


def test_the_rate_rises_and_falls_in_straight_lines():
    rate = optim.warmup_linear(2.0, 40, 10)
    at = [float(rate(step)) for step in (0, 5, 10, 25, 40, 99)]
    assert at == pytest.approx([0, 1, 2, 1, 0, 0])


@pytest.mark.parametrize(
    ("steps", "warmup"), [(200_000, 10_000), (50_000, 5_000), (500, 100), (60, 30), (1, 1)]
)
def test_the_default_warm_up(steps, warmup):
    rate = optim.warmup_linear(1.0, steps)
    assert float(rate(warmup)) == pytest.approx(1) and float(rate(warmup - 1)) < 0.999999
    assert steps <= warmup or float(rate(warmup + 1)) < 0.999999


def test_weight_decay_is_for_matrices_only():
    zero = jax.tree.map(jnp.zeros_like, PARAMS)
    moved = step(optim.adamw(0.1, weight_decay=0.5), zero)["reader"]
    for matrix in (moved["words"]["embedding"], moved["out"]["kernel"]):
        np.testing.assert_allclose(matrix, np.full(matrix.shape, -0.05), rtol=1e-6)
    for rest in (*moved["layers"]["norm"].values(), moved["out"]["bias"]):
        assert not np.asarray(rest).any()


def test_each_half_has_its_own_rate():
    halves = optim.by_part(optax.sgd(1.0), optax.sgd(0.25))
    moved = step(halves, jax.tree.map(jnp.ones_like, PARAMS))
    for part, rate in (("retriever", 1.0), ("reader", 0.25)):
        for leaf in jax.tree.leaves(moved[part]):
            np.testing.assert_allclose(leaf, np.full(leaf.shape, -rate))


def test_the_clip_is_of_each_halfs_own_norm():
    """A retriever whose gradients explode must not slow the reader."""
    halves = optim.by_part(optim.adamw(0.1, clip=1.0), optim.adamw(0.1, clip=1.0))
    small = jax.tree.map(lambda x: 1e-3 * x, PARAMS)
    loud = {**small, "retriever": jax.tree.map(lambda x: 1e6 * x, PARAMS["retriever"])}
    for quiet, beside in zip(
        *(jax.tree.leaves(step(halves, g)["reader"]) for g in (small, loud)), strict=True
    ):
        np.testing.assert_array_equal(quiet, beside)


def test_what_is_held_stays():
    moved = step(optim.frozen(), jax.tree.map(jnp.ones_like, PARAMS))
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(moved))


def test_of_a_reader_the_head_alone_learns():
    reader = {
        "encoder": {"out": {"kernel": jnp.ones((2, 2))}},
        "head": {"kernel": jnp.ones((2, 2))},
    }
    params = {"retriever": {"encoder": jnp.ones(3)}, "reader": reader}
    halves = optim.by_part(optim.frozen(), optim.head_only(optim.adamw(0.1, weight_decay=0.5)))
    gradients = jax.tree.map(jnp.ones_like, params)
    moved, _ = jax.jit(lambda g: halves.update(g, halves.init(params), params))(gradients)
    assert not any(np.asarray(x).any() for x in jax.tree.leaves(moved["retriever"]))
    assert not np.asarray(moved["reader"]["encoder"]["out"]["kernel"]).any()
    assert np.asarray(moved["reader"]["head"]["kernel"]).all()
