import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ralm_jax.errors import UserError
from ralm_jax.retrieval import exact, sharded
from ralm_jax.retrieval import searcher as mips
from ralm_jax.retrieval.index import Version

SEARCHERS = {"exact": lambda k: exact.Exact(), "rounded": exact.Rounded}


def version(vectors, step=0):
    return Version(step, np.asarray(vectors, np.float32), pathlib.Path())


def served(vectors, step=0, k=3, kind="exact"):
    searcher = SEARCHERS[kind](k)
    searcher.restore(version(vectors, step))
    return searcher


@pytest.mark.parametrize("kind", SEARCHERS)
@pytest.mark.parametrize("passages", [1, 5, 17, 100])
def test_the_devices_find_what_numpy_finds(monkeypatch, passages, kind):
    """Of small whole numbers, which bfloat16 holds, with many ties; fewer than k of them too."""
    monkeypatch.setattr(sharded, "BLOCK", 16)
    rng = np.random.default_rng(passages)
    vectors = rng.integers(-2, 3, size=(passages, 3)).astype(np.float32)
    queries = rng.integers(-2, 3, size=(9, 3)).astype(np.float32)
    for k in 1, 30:
        found = served(vectors, k=k, kind=kind).search(queries, k)()
        for got, wanted in zip(found, mips.exact(queries, vectors, k), strict=True):
            np.testing.assert_array_equal(got, wanted)
            assert got.dtype == wanted.dtype


@pytest.mark.parametrize("kind", SEARCHERS)
def test_a_search_keeps_the_version_it_began_with(kind):
    vectors = np.eye(4, dtype=np.float32)
    searcher = served(vectors, 3, kind=kind)
    early = searcher.search(np.eye(4), 1)
    searcher.build(version(vectors[::-1], 9))
    assert searcher.step == 3
    between = searcher.search(np.eye(4), 1)
    published = searcher.publish()
    assert (published.step, published.recall, searcher.step) == (9, 1.0, 9)
    late = searcher.search(np.eye(4), 1)
    assert early()[0].ravel().tolist() == between()[0].ravel().tolist() == [0, 1, 2, 3]
    assert late()[0].ravel().tolist() == [3, 2, 1, 0]


def test_queries_may_lie_on_any_device_and_a_new_version_does_not_recompile(monkeypatch):
    monkeypatch.setattr(sharded, "BLOCK", 16)
    rng = np.random.default_rng(0)
    vectors, queries = rng.normal(size=(2, 40, 5)), rng.normal(size=(8, 5)).astype(np.float32)
    searcher = served(vectors[0])
    wanted = searcher.search(queries, 3)()[0]
    mesh = jax.make_mesh((jax.device_count(),), ("data",))
    for spec in jax.P(), jax.P("data"):
        placed = jax.device_put(jnp.asarray(queries), jax.NamedSharding(mesh, spec))
        np.testing.assert_array_equal(searcher.search(placed, 3)()[0], wanted)
    traced = []
    monkeypatch.setattr(sharded, "merged", lambda *given, **how: traced.append(given))
    searcher.restore(version(vectors[1], 1))
    assert (searcher.search(queries, 3)()[0] != wanted).any() and not traced


@pytest.mark.parametrize("kind", SEARCHERS)
def test_nothing_is_served_before_the_first_publish(kind):
    searcher = SEARCHERS[kind](1)
    assert searcher.step == -1
    with pytest.raises(ValueError, match="before the first publish"):
        searcher.search(np.ones((1, 2)), 1)
    with pytest.raises(ValueError, match="without a build"):
        searcher.publish()


def test_what_bfloat16_puts_in_the_wrong_order_is_mended():
    """From 256 on it holds every second number, so that four of these are equal to it."""
    vectors = np.array([[256], [256.25], [256.5], [256.75], [100], [200]], np.float32)
    query = np.ones((1, 1), np.float32)
    wanted = mips.exact(query, vectors, 2)
    assert wanted[0].tolist() == [[3, 2]]
    alone, _ = sharded.search(sharded.placed(vectors, jnp.bfloat16), query, 2)
    assert np.asarray(alone).tolist() == [[0, 1]]
    for got, right in zip(served(vectors, kind="rounded").search(query, 2)(), wanted, strict=True):
        np.testing.assert_array_equal(got, right)


def test_the_recall_that_is_reported_is_that_of_the_queries_of_late():
    """Where more are equal in bfloat16 than are found, the best of them may be missed."""
    vectors = 256 + np.arange(4, dtype=np.float32)[:, None] / 4
    searcher = exact.Rounded(1)
    searcher.build(version(vectors))
    # Of the vectors themselves, as nobody has asked yet: the last of four equals is meant.
    assert searcher.publish().recall == 0
    assert searcher.search(-np.ones((2, 1), np.float32), 1)()[0].tolist() == [[0], [0]]
    searcher.build(version(vectors, 1))
    assert searcher.publish().recall == 1


def test_the_recall_is_measured_over_all_blocks_of_all_devices(monkeypatch):
    monkeypatch.setattr(sharded, "BLOCK", 16)
    rng = np.random.default_rng(0)
    vectors = 300 + rng.normal(size=(200, 4)).astype(np.float32)
    queries = rng.normal(size=(300, 4)).astype(np.float32)
    searcher = served(vectors, k=2, kind="rounded")
    found, _ = searcher.search(queries, 2)()
    searcher.build(version(vectors, 1))
    asked = queries[: exact.SAMPLE]
    missed = mips.recall(found[: exact.SAMPLE], mips.exact(asked, vectors, 2)[0])
    assert searcher.publish().recall == missed < 1


@pytest.mark.parametrize("whole", [0, 40])
@pytest.mark.parametrize("passages", [1, 17, 33, 100, 300])
def test_vectors_that_stay_mapped_are_found_alike(monkeypatch, tmp_path, passages, whole):
    """With ties within blocks and between those of different devices, and with fewer than k passages."""
    monkeypatch.setattr(sharded, "BLOCK", 16)
    rng = np.random.default_rng(passages)
    vectors = rng.integers(-2, 3, size=(passages, 3)).astype(np.float32)
    queries = rng.integers(-2, 3, size=(9, 3)).astype(np.float32)
    np.save(tmp_path / "vectors.npy", vectors)
    given = np.load(tmp_path / "vectors.npy", mmap_mode="r")
    found = []
    for most in 0, 1 << 30:
        monkeypatch.setattr(exact, "MAPPED", most)
        searcher = exact.Exact(whole)
        searcher.restore(Version(0, given, pathlib.Path()))
        assert (searcher._served is given) == (most == 0)
        found.append([searcher.search(jnp.asarray(queries), k)() for k in (1, 30)])
    for mapped, placed in zip(*found, strict=True):
        for got, wanted in zip(mapped, placed, strict=True):
            np.testing.assert_array_equal(got, wanted)
            assert got.dtype == wanted.dtype


def test_mapped_vectors_are_copied_a_block_at_a_time(monkeypatch, tmp_path):
    monkeypatch.setattr(exact, "MAPPED", 0)
    monkeypatch.setattr(sharded, "BLOCK", 16)
    np.save(tmp_path / "vectors.npy", np.ones((1600, 64), np.float32))
    given = np.load(tmp_path / "vectors.npy", mmap_mode="r")
    before = sum(array.nbytes for array in jax.live_arrays())
    most = 0
    merged = exact._merged

    def watched(*given, **how):
        nonlocal most
        most = max(most, sum(array.nbytes for array in jax.live_arrays()) - before)
        return merged(*given, **how)

    monkeypatch.setattr(exact, "_merged", watched)
    waits = []
    monkeypatch.setattr(exact.jax, "block_until_ready", waits.append)
    exact.mapped(given, np.ones((2, 64), np.float32), 3)
    assert 0 < most < given.nbytes / 4
    # Else all would be queued at once where a block takes longer than its copy.
    assert len(waits) == 1600 / 16


def test_a_file_that_was_cut_short_is_not_read(monkeypatch, tmp_path):
    monkeypatch.setattr(exact, "MAPPED", 0)
    np.save(tmp_path / "vectors.npy", np.ones((4096, 64), np.float32))
    searcher = exact.Exact()
    searcher.restore(Version(0, np.load(tmp_path / "vectors.npy", mmap_mode="r"), pathlib.Path()))
    with (tmp_path / "vectors.npy").open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(UserError, match=r"vectors\.npy was cut short"):
        searcher.search(np.ones((1, 64), np.float32), 1)
