"""Building from a file, a few rows at a time, and choosing how hard to search."""

import itertools
import subprocess
import sys

import numpy as np
import pytest

from ralm_jax.retrieval import scann_build, scann_index, scann_process, searcher
from ralm_jax.retrieval.scann_index import ScannConfig

pytestmark = pytest.mark.skipif(not scann_process.has_scann(), reason="ScaNN is not installed")

N, E = 5000, 16


def unit(rows, seed=0):
    vectors = np.random.default_rng(seed).normal(size=(rows, E))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def stored(folder, vectors):
    np.save(folder / "vectors.npy", vectors)
    return folder / "vectors.npy"


@pytest.fixture
def parts(monkeypatch):
    """Parts so small that rows of the sample and rows after them meet within some of them."""
    monkeypatch.setattr(scann_build, "MAPPED", 1700)
    monkeypatch.setattr(scann_build, "ADDED", 300)
    monkeypatch.setattr(scann_build, "TRAINED", 50)


@pytest.mark.parametrize("k", [8, 1000])
def test_each_row_of_a_tree_has_its_own_number(tmp_path, parts, k):
    vectors = unit(N)
    made, form = scann_build.build(stored(tmp_path, vectors), k, 1, leaves=40)
    assert form == "tree" and made.searcher.size() == N
    ids, scores = made.search_batched(
        vectors, 1, pre_reorder_num_neighbors=300, leaves_to_search=40
    )
    np.testing.assert_array_equal(ids.ravel(), np.arange(N))
    # To the half precision that rescores.
    np.testing.assert_allclose(scores, 1, atol=0.01)


def test_the_exact_neighbours_do_not_depend_on_the_parts(tmp_path, parts):
    # Whole numbers, so that scores are equal or differ: there are many equal ones.
    vectors, queries = (np.round(8 * unit(rows, rows)) for rows in (N, 20))
    for k in (1, 10, 3000):
        found = scann_build.nearest(stored(tmp_path, vectors), queries, k)
        np.testing.assert_array_equal(found, searcher.exact(queries, vectors, k)[0])


MEASURE = """
import sys
from pathlib import Path
from ralm_jax.retrieval import scann_build
scann_build.MAPPED = 1 << 14
file, leaves = Path(sys.argv[1]), int(sys.argv[2])
scann_build.scann()
# Not what getrusage says, which begins with the memory of the parent.
status = Path("/proc/self/status")
peak = lambda: 1024 * int(status.read_text().partition("VmHWM:")[2].split()[0])
before = peak()
searcher, _ = scann_build.build(file, 8, 1, leaves)
print(peak() - before)
"""


@pytest.mark.slow
def test_a_build_takes_less_memory_than_its_vectors(tmp_path):
    """Of 100 MB: the searcher has half of that, and a file of vectors that is mapped counts too."""
    vectors = np.random.default_rng(0).standard_normal((200_000, 128), np.float32)
    file = stored(tmp_path, vectors)
    command = [sys.executable, "-c", MEASURE, str(file), "50"]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert 0 < int(ran.stdout) < vectors.nbytes


class Pretended:
    """Finds of the first k passages the share that `share` says for leaves and candidates."""

    def __init__(self, share):
        self._share, self.searches = share, 0

    def set_num_threads(self, threads):
        pass

    def search_batched(self, queries, k, pre_reorder_num_neighbors, leaves_to_search, **unexpected):
        assert not unexpected
        self.searches += 1
        found = round(k * self._share(leaves_to_search, pre_reorder_num_neighbors))
        scores = np.where(np.arange(k) < found, 1.0, np.nan)
        return np.tile(np.arange(k), (len(queries), 1)), np.tile(scores, (len(queries), 1))


SHARES = {
    "leaves matter": lambda leaves, reorder: min(1, leaves / 400) ** 0.5,
    "candidates matter": lambda leaves, reorder: min(1, reorder / 3000) ** 0.5,
    "both": lambda leaves, reorder: (min(1, leaves / 200) * min(1, reorder / 2500)) ** 0.3,
    "neither": lambda leaves, reorder: 1.0,
}


@pytest.mark.parametrize("share", SHARES.values(), ids=SHARES)
@pytest.mark.parametrize("k", [100, 2000])
def test_the_least_effort_that_reaches_the_recall_is_chosen(tmp_path, monkeypatch, k, share):
    passages = 600_000
    # Only its length is read.
    file = stored(tmp_path, np.broadcast_to(np.float32(0), (passages, 1)))
    monkeypatch.setattr(
        scann_index, "nearest", lambda file, queries, k: np.tile(np.arange(k), (len(queries), 1))
    )
    config, made = ScannConfig(k=k, recall=0.95), Pretended(share)
    chosen = scann_index._fit(made, "tree", file, np.zeros((4, 1), np.float32), config)
    reorders = scann_index._reorders(passages, k)
    pairs = list(itertools.product(scann_index._all_efforts(passages, k, config), reorders))

    def effort(pair):
        leaves, reorder = pair
        return scann_index._effort(passages, leaves, reorder, config)

    reached = [pair for pair in pairs if round(k * share(*pair)) >= 0.95 * k]
    assert (chosen.leaves, chosen.reorder) == min(reached, key=effort)
    assert chosen.recall >= 0.95 and chosen.k == k
    assert made.searches <= len(reorders) + len(pairs) / len(reorders)


@pytest.mark.parametrize("passages", [600_000, 2_000_000])
def test_where_no_effort_reaches_it_all_are_scored_or_the_most_is_done(
    tmp_path, monkeypatch, passages
):
    file = stored(tmp_path, np.broadcast_to(np.float32(0), (passages, 1)))
    monkeypatch.setattr(
        scann_index, "nearest", lambda file, queries, k: np.tile(np.arange(k), (len(queries), 1))
    )
    made, config = Pretended(lambda leaves, reorder: 0.5), ScannConfig()
    chosen = scann_index._fit(made, "tree", file, np.zeros((4, 1), np.float32), config)
    if passages <= scann_index.BRUTE_UP_TO:
        assert chosen.form == "brute" and chosen.recall == 1
    else:
        most = scann_index._all_efforts(passages, 8, config)[-1], 3200
        assert (chosen.leaves, chosen.reorder, chosen.recall) == (*most, 0.5)


def test_leaves_are_tried_up_to_all_of_them_and_hold_what_is_asked_for():
    for passages, k in ((600_000, 8), (1_000_000, 5000), (13_353_718, 100), (13_353_718, 5000)):
        config = ScannConfig(k=k)
        leaves = scann_index._all_efforts(passages, k, config)
        every = scann_build.all_leaves(passages, None)
        assert leaves[-1] == every and len(leaves) < 20
        assert leaves[0] * passages / every >= 2 * k * 0.9
        # None much further from the last than another.
        assert all(b <= 1.5 * a + 1 for a, b in itertools.pairwise(leaves))
