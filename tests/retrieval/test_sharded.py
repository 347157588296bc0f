"""Vectors over several devices: nothing of what is found tells how many there are."""

import tracemalloc
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ralm_jax.errors import UserError
from ralm_jax.retrieval import searcher as mips
from ralm_jax.retrieval import sharded


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(sharded, "BLOCK", 16)


def draw(passages, width=24, repeated=7):
    """Vectors with some that come again, on other devices too, and queries."""
    rng = np.random.default_rng(passages)
    vectors = rng.normal(size=(passages, width)).astype(np.float32)
    again = rng.integers(0, passages, (2, repeated))
    vectors[again[0]] = vectors[again[1]]
    return vectors, rng.normal(size=(11, width)).astype(np.float32)


def test_every_row_has_a_place_and_no_device_is_idle():
    for passages in [*range(1, 300), 1000, 4096, 4097]:
        for devices in 1, 2, 3, 8:
            at = sharded.layout(passages, devices)
            assert at.devices <= devices and at.block <= 16
            assert at.devices * at.rows >= passages > (at.devices - 1) * at.rows
            # No more than the busiest of them has to hold.
            assert (at.blocks - 1) * at.block * devices < passages


@pytest.mark.parametrize("passages", [17, 50, 129])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_many_devices_find_what_one_finds_to_the_bit(monkeypatch, passages, dtype):
    vectors, queries = draw(passages)
    many = sharded.placed(vectors, dtype)
    assert len(many.devices) == len(many.blocks.sharding.device_set) == min(5, -(-passages // 16))
    lay = sharded.layout
    monkeypatch.setattr(sharded, "layout", lambda passages, devices: lay(passages, 1))
    one = sharded.placed(vectors, dtype)
    assert len(one.devices) == 1
    for k in 5, passages + 3:
        for got, wanted in zip(
            sharded.search(many, queries, k), sharded.search(one, queries, k), strict=True
        ):
            np.testing.assert_array_equal(got, wanted)


def test_vectors_that_come_again_are_found_in_the_order_of_their_rows():
    vectors = np.tile(np.arange(1, 6, dtype=np.float32)[:, None], (40, 1))
    ids, scores = sharded.search(sharded.placed(vectors, np.float32), np.ones((1, 1)), 45)
    assert np.asarray(ids)[0].tolist() == [*range(4, 200, 5), *range(3, 28, 5)]
    assert np.asarray(scores)[0].tolist() == [5] * 40 + [4] * 5


def test_what_a_tpu_finds_approximately_others_find_exactly():
    """What a TPU misses no CPU can say, only that the ids are those of the rows."""
    vectors, queries = draw(300, repeated=0)
    found = sharded.search(sharded.placed(vectors, np.float32), queries, 7, approximate=True)
    wanted = mips.exact(queries, vectors, 7)
    np.testing.assert_array_equal(found[0], wanted[0])
    np.testing.assert_allclose(found[1], wanted[1], rtol=1e-5)


def test_a_block_at_a_time_is_copied_on_the_host(tmp_path):
    passages, width = 40 * 16 - 3, 512
    np.save(tmp_path / "vectors.npy", np.ones((passages, width), np.float32))
    vectors = np.load(tmp_path / "vectors.npy", mmap_mode="r")
    sharded.placed(vectors, np.float32)  # compiles
    tracemalloc.start()
    table = sharded.placed(vectors, np.float32)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.asarray(table.blocks).sum() == passages * width
    assert most < vectors.nbytes / 4


def test_a_table_without_room_is_refused_before_it_is_made(monkeypatch):
    sharded.check_room(10**9, 128, np.float32, 2)  # a CPU does not say what it has
    device = SimpleNamespace(memory_stats=lambda: {"bytes_limit": 16e9})
    monkeypatch.setattr(jax, "local_devices", lambda: [device] * 8)
    sharded.check_room(13_353_718, 128, jnp.bfloat16, 2)
    monkeypatch.setattr(jax, "local_devices", lambda: [device] * 1)
    sharded.check_room(13_353_718, 128, jnp.bfloat16, 2)
    with pytest.raises(
        UserError,
        match=r"20,000,000 passages of 384 .* take 30.7 GB of each of 1 devices of 16.0 GB",
    ):
        sharded.check_room(20_000_000, 384, jnp.bfloat16, 2)


@pytest.mark.parametrize(
    ("n", "k", "grouped"),
    [(8192, 1, True), (8192, 16, True), (8192, 17, False), (8200, 2, False)],
)
def test_the_greatest_are_those_of_top_k_and_equals_keep_their_order(monkeypatch, n, k, grouped):
    rng = np.random.default_rng(k)
    scores = rng.integers(0, 40, (50, n)).astype(np.float32)
    # Rows with nearly nothing, and with nothing.
    scores[rng.random(scores.shape) < 1 - np.geomspace(1, 1e-4, 50)[:, None]] = -np.inf
    # One group has all of the best.
    scores[0, 128:192] = 50 + np.arange(64) % 3
    wanted = jax.lax.top_k(scores, k)
    asked, top_k = [], jax.lax.top_k
    monkeypatch.setattr(jax.lax, "top_k", lambda x, k: asked.append(x.shape[1]) or top_k(x, k))
    for got, want in zip(sharded.greatest(jnp.asarray(scores), k), wanted, strict=True):
        np.testing.assert_array_equal(got, want)
    assert asked == ([n // 64, 64 * k] if grouped else [n])
