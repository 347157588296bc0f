"""Churn by hand, and at its ends."""

import math

import numpy as np
import pytest

from ralm_jax.retrieval import churn as module
from ralm_jax.retrieval.churn import churn


def test_by_hand(monkeypatch):
    monkeypatch.setattr(module, "NEIGHBOURS", 1)
    # On a line of directions each passage's neighbour is the next one; then the third moves to the first.
    before = np.array([[1, 0], [1, 0.1], [0, 1], [0.1, 1]], np.float32)
    after = before.copy()
    after[3] = [2, 0]
    # 0: 1 -> 3; 1: 0 -> 3; 2: 3 -> 1; 3: 2 -> 0: all four are others now.
    assert churn(before, after) == 1.0
    assert churn(before, before) == 0.0
    after[3] = [0.1, 2]  # farther out in the same direction: 2 and 3 keep each other, 0 and 1 too
    assert churn(before, after) == 0.0
    after[2] = [0, 0.05]  # 2: 3 -> 3; 3: 2 -> 1; 0 and 1 as they were
    assert churn(before, after) == 0.25


def test_scaling_changes_nothing_and_new_vectors_everything():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(3000, 16)).astype(np.float32)
    assert churn(vectors, 3 * vectors) == 0.0
    assert churn(vectors, rng.normal(size=(3000, 16)).astype(np.float32)) > 0.97
    nudged = vectors + 0.05 * rng.normal(size=vectors.shape).astype(np.float32)
    assert 0 < churn(vectors, nudged) < 0.4


@pytest.mark.parametrize("n", [1, 2, 5])
def test_small_corpora(n):
    vectors = np.random.default_rng(1).normal(size=(n, 4)).astype(np.float32)
    found = churn(vectors, vectors)
    assert math.isnan(found) if n == 1 else found == 0.0


def test_neighbours_are_looked_for_among_some(monkeypatch):
    monkeypatch.setattr(module, "AMONG", 100)
    vectors = np.random.default_rng(2).normal(size=(500, 4)).astype(np.float32)
    assert churn(vectors, vectors) == 0.0 and churn(vectors, -vectors[::-1]) > 0.5
