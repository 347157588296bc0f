"""The synthetic vectors are what they are said to be, and what is measured of small ones."""

import numpy as np
import pytest

from experiments.bench import deep_search
from ralm_jax.retrieval import scann_process


@pytest.fixture(scope="module")
def drawn():
    return deep_search.world(width=32, topics=200)


def test_vectors_are_on_the_sphere_and_the_same_whenever_they_are_drawn(drawn):
    vectors = deep_search.passages(drawn, 3000, 0)
    assert vectors.dtype == np.float32 and vectors.shape == (3000, 32)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(vectors, deep_search.passages(drawn, 3000, 0))
    assert not np.isin(deep_search.passages(drawn, 100, 3000), vectors).all(axis=1).any()


def test_topics_differ_in_size_and_directions_in_variance(drawn):
    assert drawn.shares.sum() == pytest.approx(1) and (np.diff(drawn.shares) < 0).all()
    assert drawn.shares[0] > 20 * drawn.shares[-1]
    vectors = deep_search.passages(drawn, 20_000, 0)
    variances = np.linalg.eigvalsh(np.cov(vectors.T))[::-1]
    assert variances[:8].sum() > 2 * variances[-16:].sum()


def test_a_query_lies_near_a_passage_as_independent_noise_does_not(drawn):
    vectors = deep_search.passages(drawn, 5000, 0)
    asked = deep_search.queries(drawn, vectors, 100)
    noise = np.random.default_rng(0).normal(size=(100, 32))
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    near, far = ((each @ vectors.T).max(axis=1) for each in (asked, noise))
    assert near.mean() > 0.85 and near.mean() > far.mean() + 0.2


@pytest.mark.slow
@pytest.mark.skipif(not scann_process.has_scann(), reason="ScaNN is not installed")
def test_what_is_measured_of_small_ones(drawn, tmp_path, monkeypatch):
    monkeypatch.setattr(deep_search, "world", lambda: drawn)
    small = deep_search.beam(tmp_path / "a", 3000, (5, 50), repeats=3)
    large = deep_search.wikipedia(tmp_path / "b", 3000, 5, [5, 50], repeats=3)
    for report in (small, large):
        assert all(own["recall"] > 0.9 for own in report["by_k"].values())
        assert all(own["seconds_per_batch"][0] > 0 for own in report["by_k"].values())
    value, low, high = small["times_as_long"]
    assert 0 < low <= value <= high
    assert 0 < large["process"]["resident_gib"] <= large["process"]["peak_resident_gib"]
    shown = deep_search.table({"beam": small, "wikipedia": large})
    assert shown.count("| 3,000 | 5 | 50 |") == 1 and shown.count("| 3,000 | 50 | 50 |") == 1
