import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ralm_jax.losses import microbatch

ROWS = 8


def loss(weight, learnt, fixed, scale=1.0):
    """Couples the columns of a row, and nothing else."""
    values = jax.nn.logsumexp(learnt * weight["w"][None, :] + fixed, axis=1)
    return scale * values.sum(), ({"positive": (fixed > 0).sum()}, {"values": values})


@pytest.fixture
def given():
    rng = np.random.default_rng(0)
    learnt, fixed = rng.normal(size=(2, ROWS, 3)).astype(np.float32)
    return {"w": jnp.arange(3.0)}, jnp.asarray(learnt), jnp.asarray(fixed)


@pytest.mark.parametrize("size", [1, 2, 8])
def test_groups_add_up_to_the_whole_with_its_gradients(given, size):
    """Through a factor: what comes in from behind must reach both gradients."""
    grouped = microbatch.in_groups([loss], lambda fixed: 0, size)
    wanted, found = (
        jax.jit(jax.value_and_grad(lambda *x: f(*x)[0] / 3, argnums=(0, 1)))(*given)  # noqa: B023
        for f in (loss, grouped)
    )
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), found, wanted)
    (metrics, kept), (all_metrics, all_kept) = grouped(*given)[1], loss(*given)[1]
    assert metrics["positive"] == all_metrics["positive"]
    # What is kept of each row comes in the order of rows.
    np.testing.assert_allclose(kept["values"], all_kept["values"], rtol=1e-6)


def test_each_group_takes_the_way_that_is_chosen(given):
    ways = [functools.partial(loss, scale=1.0), functools.partial(loss, scale=10.0)]
    grouped = microbatch.in_groups(ways, lambda fixed: (fixed[0, 0] > 0).astype(int), 1)
    times = np.where(np.asarray(given[2])[:, 0] > 0, 10, 1)
    assert set(times) == {1, 10}
    each = [loss(given[0], given[1][i : i + 1], given[2][i : i + 1])[0] for i in range(ROWS)]
    np.testing.assert_allclose(grouped(*given)[0], (times * np.array(each)).sum(), rtol=1e-5)


def test_a_group_is_as_large_as_divides():
    wanted = {(16, 5): 4, (16, 16): 16, (16, 99): 16, (7, 3): 1, (6, 4): 3, (4, 0): 1}
    assert {given: microbatch.divisor(*given) for given in wanted} == wanted
