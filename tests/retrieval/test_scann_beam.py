"""Wide beams: fine-tuning asks ScaNN for thousands of passages, of which it gives only those it rescored."""

import dataclasses
import json

import numpy as np
import pytest

from ralm_jax.retrieval import index, scann_index, scann_process, searcher
from ralm_jax.retrieval.scann_index import FOLDER, SETTINGS, ScannConfig, open_or_build

pytestmark = pytest.mark.skipif(not scann_process.has_scann(), reason="ScaNN is not installed")

N, E = 20_000, 16


def clustered(rows, seed):
    rng = np.random.default_rng(seed)
    topics = np.random.default_rng(9).normal(size=(100, E))
    vectors = topics[rng.integers(0, 100, rows)] + 0.7 * rng.normal(size=(rows, E))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def vectors():
    return clustered(N, 0)


def commit(root, vectors):
    writer = index.create(root, 0, vectors.shape, "corpus")
    writer.write(0, vectors)
    return writer.commit().path


@pytest.mark.parametrize("leaves", [None, 100])
@pytest.mark.parametrize("k", [1000, 5000])
def test_as_many_are_found_as_are_asked_for(vectors, tmp_path, monkeypatch, k, leaves):
    """Even above the size up to which scoring all passages is the way out."""
    monkeypatch.setattr(scann_index, "BRUTE_UP_TO", 0)
    version, queries = commit(tmp_path, vectors), clustered(80, 1)
    made = open_or_build(version, queries, ScannConfig(k=k, leaves=leaves))
    ids, scores = made.search(queries[:20], k)
    assert (ids >= 0).all() and np.isfinite(scores).all()
    assert made.settings.form == "brute" or made.settings.reorder >= k
    wanted, _ = searcher.exact(queries[:20], vectors, k)
    found = searcher.recall(ids, wanted)
    assert found > 0.97 and made.settings.recall == pytest.approx(found, abs=0.02)


@pytest.mark.parametrize("leaves", [None, 100])
def test_more_may_be_asked_for_than_was_fitted(vectors, tmp_path, leaves):
    queries = clustered(80, 1)
    made = open_or_build(commit(tmp_path, vectors), queries, ScannConfig(k=8, leaves=leaves))
    assert made.settings.form != "brute"
    for k in (8, 500, 5000):
        ids, _ = made.search(queries[:20], k)
        assert (ids >= 0).all()
        assert searcher.recall(ids, searcher.exact(queries[:20], vectors, k)[0]) > 0.95


def test_few_candidates_are_rescored_where_few_are_asked_for(vectors, tmp_path):
    made = open_or_build(commit(tmp_path, vectors), clustered(80, 1), ScannConfig(k=8))
    assert made.settings.reorder in (100, 200, 400, 800)


def test_a_searcher_that_was_fitted_to_fewer_is_fitted_again(vectors, tmp_path):
    """As those of runs whose index rescored less than their beam."""
    version, queries = commit(tmp_path, vectors), clustered(80, 1)
    before = open_or_build(version, queries, ScannConfig(k=8)).settings
    file = version / FOLDER / SETTINGS
    assert open_or_build(version, queries, ScannConfig(k=8)).settings == before
    settings = dataclasses.asdict(before) | {"reorder": 3200}
    # Of a release that did not say to which k it was fitted.
    del settings["k"]
    file.write_text(json.dumps(settings))
    made = open_or_build(version, queries, ScannConfig(k=5000))
    assert made.settings.form == "brute" or made.settings.reorder >= 5000
    assert (made.search(queries[:5], 5000)[0] >= 0).all()


def test_the_recall_that_is_reported_is_that_of_the_k_in_use(vectors, tmp_path):
    """Of more passages a searcher finds a smaller share, though it rescores as many as are asked for."""
    version, queries = commit(tmp_path, vectors), clustered(80, 1)
    few = open_or_build(version, queries, ScannConfig(k=8)).settings
    assert few.k == 8 and few.reorder >= 50
    many = open_or_build(version, queries, ScannConfig(k=50)).settings
    assert many.k == 50
    # What was fitted to more serves fewer.
    assert open_or_build(version, queries, ScannConfig(k=8)).settings == many


def test_a_tree_finds_a_wide_beam_with_little_more_than_it(vectors, tmp_path):
    """Codes of one dimension rank so well that few more are rescored than are asked for."""
    queries = clustered(80, 1)
    made = open_or_build(commit(tmp_path, vectors), queries, ScannConfig(k=2000, leaves=100))
    assert made.settings.form == "tree" and 2000 <= made.settings.reorder <= 2500
    ids, _ = made.search(queries[:20], 2000)
    assert searcher.recall(ids, searcher.exact(queries[:20], vectors, 2000)[0]) > 0.95


def test_fewer_queries_measure_a_larger_k():
    queries, vectors = np.zeros((600, 2), np.float32), np.zeros((900, 2), np.float32)
    sizes = [len(scann_index._sample(queries, vectors, k)) for k in (8, 512, 1024, 5000, 100_000)]
    assert sizes == [512, 512, 256, 64, 64]
