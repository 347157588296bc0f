import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ralm_jax.retrieval import exact
from ralm_jax.retrieval import searcher as mips
from ralm_jax.retrieval.index import Version


def version(vectors, step=0):
    return Version(step, np.asarray(vectors, np.float32), pathlib.Path())


def served(vectors, step=0):
    searcher = exact.Exact()
    searcher.restore(version(vectors, step))
    return searcher


@pytest.mark.parametrize("passages", [1, 5, 16, 17, 100])
def test_the_device_finds_what_numpy_finds(monkeypatch, passages):
    monkeypatch.setattr(exact, "BLOCK", 16)
    rng = np.random.default_rng(passages)
    vectors = rng.integers(-2, 3, size=(passages, 3)).astype(np.float32)  # many ties
    queries = rng.integers(-2, 3, size=(9, 3)).astype(np.float32)
    for k in 1, 8, 30:
        found = served(vectors).search(queries, k)()
        for got, wanted in zip(found, mips.exact(queries, vectors, k), strict=True):
            np.testing.assert_array_equal(got, wanted)
            assert got.dtype == wanted.dtype


def test_a_search_keeps_the_version_it_began_with():
    vectors = np.eye(4, dtype=np.float32)
    searcher = served(vectors, 3)
    early = searcher.search(np.eye(4), 1)
    searcher.build(version(vectors[::-1], 9))
    assert searcher.step == 3
    between = searcher.search(np.eye(4), 1)
    published = searcher.publish()
    assert (published.step, published.recall, searcher.step) == (9, 1.0, 9)
    late = searcher.search(np.eye(4), 1)
    assert early()[0].ravel().tolist() == between()[0].ravel().tolist() == [0, 1, 2, 3]
    assert late()[0].ravel().tolist() == [3, 2, 1, 0]


def test_queries_may_lie_on_any_device_and_a_new_version_does_not_recompile():
    rng = np.random.default_rng(0)
    vectors, queries = rng.normal(size=(2, 40, 5)), rng.normal(size=(8, 5)).astype(np.float32)
    searcher = served(vectors[0])
    wanted = searcher.search(queries, 3)()[0]
    mesh = jax.make_mesh((jax.device_count(),), ("data",))
    for spec in jax.P(), jax.P("data"):
        placed = jax.device_put(jnp.asarray(queries), jax.NamedSharding(mesh, spec))
        np.testing.assert_array_equal(searcher.search(placed, 3)()[0], wanted)
    compiled = exact.top_k._cache_size()
    searcher.restore(version(vectors[1], 1))
    searcher.search(queries, 3)()
    assert exact.top_k._cache_size() == compiled


def test_nothing_is_served_before_the_first_publish():
    searcher = exact.Exact()
    assert searcher.step == -1
    with pytest.raises(ValueError, match="before the first publish"):
        searcher.search(np.ones((1, 2)), 1)
    with pytest.raises(ValueError, match="without a build"):
        searcher.publish()
