import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ralm_jax import partition
from ralm_jax.errors import UserError

DEVICES = 8  # as conftest asks for


def on_every_device(function, rows):
    """What `function(rows of a device)` returns on each: [devices, ...]."""

    def step(state, batch, key):
        return state, partition.all_gather(jnp.asarray(function(batch))[None])

    _, found = partition.parallelize(step)(partition.replicate(jnp.zeros(())), rows, jnp.zeros(()))
    return np.asarray(found)


def test_replicated_trees_are_on_every_device_and_whole():
    placed = partition.replicate({"w": np.arange(6.0), "step": jnp.int32(3)})
    for leaf in jax.tree.leaves(placed):
        assert leaf.sharding.is_fully_replicated and len(leaf.sharding.device_set) == DEVICES
    np.testing.assert_array_equal(placed["w"], np.arange(6.0))
    assert placed["step"] == 3


def test_rows_keep_their_order_from_shard_to_gather():
    rows = np.arange(16 * 3.0, dtype=np.float32).reshape(16, 3)
    sharded = partition.shard({"x": rows})["x"]
    assert sharded.shape == (DEVICES, 2, 3)
    everyones = on_every_device(partition.all_gather, sharded)
    assert everyones.shape == (DEVICES, 16, 3)
    for seen in everyones:
        np.testing.assert_array_equal(seen, rows)
    first = on_every_device(lambda x: partition.first_row(len(x)), sharded)
    np.testing.assert_array_equal(first, np.arange(0, 16, 2))


def test_sums_are_over_all_devices():
    sums = on_every_device(partition.psum, np.arange(8.0, dtype=np.float32))
    np.testing.assert_array_equal(sums, np.full(DEVICES, 28.0))


def test_gathered_returns_all_rows_in_order():
    function = partition.gathered(lambda scale, rows: scale * rows["x"])
    rows = np.arange(24.0, dtype=np.float32).reshape(DEVICES, 3)
    found = function(partition.replicate(jnp.float32(2)), {"x": rows})
    np.testing.assert_array_equal(found, 2 * rows.reshape(-1))


def test_some_devices_share_rows_that_lie_on_them_already():
    some = jax.local_devices()[2:5]
    rows = [jnp.full((1, 4), number, jnp.float32, device=d) for number, d in enumerate(some)]
    placed = partition.on_each(rows, some)
    assert placed.shape == (3, 4) and placed.sharding.device_set == set(some)
    scale = partition.replicate(jnp.float32(2), some)
    assert scale.sharding.device_set == set(some)

    def function(scale, own):
        return partition.all_gather(scale * own) + partition.psum(partition.first_row(1))

    found = partition.shared_out(function, some)(scale, placed)
    np.testing.assert_array_equal(found, np.repeat([0, 2, 4], 4) + 3)


def test_keys_differ_by_device_and_by_step_and_are_pure():
    def bits(step):
        key = jax.random.key(5)
        draw = lambda _: jax.random.bits(partition.device_key(key, step))  # noqa: E731
        return on_every_device(draw, np.zeros(DEVICES, np.float32))

    first, second = bits(0), bits(1)
    assert len({*first.tolist(), *second.tolist()}) == 2 * DEVICES
    np.testing.assert_array_equal(bits(0), first)


@pytest.mark.parametrize("size", [12, 7, 0, -8])
def test_a_batch_that_does_not_divide_is_refused(size):
    with pytest.raises(UserError, match=f"batch of {size} does not .* 8 devices: .* multiple of 8"):
        partition.check_batch(size)
    partition.check_batch(16)


def test_processes_take_their_share_of_the_rows(monkeypatch):
    assert partition.local_rows(24) == slice(0, 24)
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    shares = []
    for process in range(3):
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        shares.extend(range(24)[partition.local_rows(24)])
    assert shares == list(range(24))
