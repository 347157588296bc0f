"""How sure a mean is, and a difference between two systems that were asked the same questions."""

from collections.abc import Sequence

import numpy as np

# Sign flips of a randomisation test; its p-values are no smaller than one over this.
FLIPS = 10_000


def interval(values: Sequence[float] | np.ndarray, draws: int = 1000) -> list[float]:
    """Mean of at least one value, and the 2.5 and 97.5 percentiles of means of bootstrap samples (seed 0)."""
    array = np.asarray(values)
    rng = np.random.default_rng(0)
    means = [array[rng.integers(0, len(array), len(array))].mean() for _ in range(draws)]
    return [float(array.mean()), *(float(x) for x in np.percentile(means, [2.5, 97.5]))]


def paired(ours: np.ndarray, theirs: np.ndarray) -> dict[str, float]:
    """Ours less theirs, question by question, [Q] each: the mean, its 95% bootstrap interval, and p.

    p is of a two-sided randomisation test, which flips the signs of the differences (Smucker et al. 2007;
    Urbano et al. 2019 find it and the paired t-test best behaved for retrieval).
    """
    difference = np.asarray(ours, float) - np.asarray(theirs, float)
    mean, low, high = interval(difference)
    differing = difference[difference != 0]
    if not len(differing):
        return {"difference": mean, "low": low, "high": high, "p": 1.0}
    rng = np.random.default_rng(0)
    seen = abs(differing.sum()) - 1e-9
    extreme = 0
    for _ in range(FLIPS // 100):
        signs = rng.integers(0, 2, (100, len(differing))) * 2 - 1
        extreme += int((abs(signs @ differing) >= seen).sum())
    return {"difference": mean, "low": low, "high": high, "p": (extreme + 1) / (FLIPS + 1)}
