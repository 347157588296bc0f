"""Intervals and paired differences, by hand and where chance alone is at work."""

import numpy as np

from ralm_jax.metrics.intervals import interval, paired


def test_a_difference_that_is_always_the_same_way_is_significant():
    ours, theirs = np.ones(12), np.zeros(12)
    found = paired(ours, theirs)
    assert (found["difference"], found["low"], found["high"]) == (1.0, 1.0, 1.0)
    # All twelve signs alike, either way: 2 of 4,096.
    assert 1e-4 <= found["p"] < 0.004


def test_no_difference_is_none():
    same = np.array([0.0, 1.0, 1.0])
    assert paired(same, same) == {"difference": 0.0, "low": 0.0, "high": 0.0, "p": 1.0}


def test_p_is_as_often_small_as_it_says_where_there_is_no_difference():
    rng = np.random.default_rng(3)
    ps = [paired(*rng.integers(0, 2, (2, 60)))["p"] for _ in range(100)]
    assert np.mean(np.array(ps) < 0.2) < 0.3 and np.mean(np.array(ps) < 0.05) < 0.12


def test_pairs_tell_more_than_two_means():
    """Where every question gains a little, the spread among questions does not hide it."""
    rng = np.random.default_rng(0)
    theirs = rng.random(100)
    found = paired(theirs + 0.01, theirs)
    assert found["p"] < 0.001 and found["low"] > 0
    alone = interval(theirs + 0.01)
    assert alone[1] < theirs.mean() < alone[2]
